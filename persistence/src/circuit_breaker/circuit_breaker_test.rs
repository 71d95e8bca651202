//! Opening, probing, closing, and reports that come late.

use proptest::prelude::*;

use super::*;

const SETTINGS: CircuitBreakerSettings = CircuitBreakerSettings {
    max_failures: 3,
    call_timeout: Duration::from_secs(10),
    reset_timeout: Duration::from_secs(1),
};

/// The random number for which a probe goes out after just the reset time-out.
const MIDDLE: f64 = 0.5;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[track_caller]
fn ticket(breaker: &mut CircuitBreaker, now: Instant) -> Ticket {
    match breaker.admit(now) {
        Admittance::Send(ticket) => ticket,
        Admittance::Refuse { retry_after } => panic!("refused for {retry_after:?}"),
    }
}

fn refused_for(breaker: &mut CircuitBreaker, now: Instant) -> Option<Duration> {
    match breaker.admit(now) {
        Admittance::Send(_) => None,
        Admittance::Refuse { retry_after } => Some(retry_after),
    }
}

fn fail_times(breaker: &mut CircuitBreaker, now: Instant, times: u32) {
    for _ in 0..times {
        let ticket = ticket(breaker, now);
        breaker.failed(&ticket, now, MIDDLE);
    }
}

fn opened(now: Instant) -> CircuitBreaker {
    let mut breaker = CircuitBreaker::new(SETTINGS);
    fail_times(&mut breaker, now, 3);
    assert_eq!(breaker.state(), CircuitState::Open);
    breaker
}

#[test]
fn it_opens_at_so_many_failures_in_a_row() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new(SETTINGS);
    fail_times(&mut breaker, now, 2);
    assert_eq!(breaker.state(), CircuitState::Closed);
    let answered = ticket(&mut breaker, now);
    breaker.succeeded(&answered);
    fail_times(&mut breaker, now, 2);
    assert_eq!(breaker.state(), CircuitState::Closed);
    fail_times(&mut breaker, now, 1);
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(refused_for(&mut breaker, now), Some(ms(1_000)));
    assert_eq!(refused_for(&mut breaker, now + ms(300)), Some(ms(700)));
}

#[test]
fn one_probe_at_a_time_and_its_success_closes() {
    let now = Instant::now();
    let mut breaker = opened(now);
    assert_eq!(refused_for(&mut breaker, now + ms(999)), Some(ms(1)));
    let probe = ticket(&mut breaker, now + ms(1_000));
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    assert_eq!(refused_for(&mut breaker, now + ms(1_000)), Some(ms(1_250)));
    breaker.succeeded(&probe);
    assert_eq!(breaker.state(), CircuitState::Closed);
    // Failures count from the start again.
    fail_times(&mut breaker, now, 2);
    assert_eq!(breaker.state(), CircuitState::Closed);
    fail_times(&mut breaker, now, 1);
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[test]
fn a_failed_probe_opens_it_for_another_time() {
    let now = Instant::now();
    let mut breaker = opened(now);
    for second in 1..50 {
        let now = now + ms(1_000 * second);
        let probe = ticket(&mut breaker, now);
        breaker.failed(&probe, now, MIDDLE);
        assert_eq!(breaker.state(), CircuitState::Open);
        assert_eq!(refused_for(&mut breaker, now), Some(ms(1_000)));
    }
}

#[test]
fn a_lost_probe_is_replaced_and_its_report_ignored() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let sent = now + ms(1_000);
    let lost = ticket(&mut breaker, sent);
    assert_eq!(refused_for(&mut breaker, sent + ms(9_999)), Some(ms(1)));
    let probe = ticket(&mut breaker, sent + ms(10_000));
    assert_ne!(lost, probe);
    breaker.succeeded(&lost);
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    breaker.failed(&lost, sent + ms(10_000), MIDDLE);
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    breaker.succeeded(&probe);
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[test]
fn late_reports_change_nothing() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new(SETTINGS);
    let late: Vec<Ticket> = (0..4).map(|_| ticket(&mut breaker, now)).collect();
    fail_times(&mut breaker, now, 3);
    // Sent while it was closed: neither closes it, nor keeps it open longer.
    breaker.succeeded(&late[0]);
    assert_eq!(breaker.state(), CircuitState::Open);
    breaker.failed(&late[1], now + ms(900), MIDDLE);
    assert_eq!(refused_for(&mut breaker, now + ms(900)), Some(ms(100)));
    let probe = ticket(&mut breaker, now + ms(1_000));
    breaker.failed(&late[2], now + ms(1_000), MIDDLE);
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    breaker.succeeded(&probe);
    // After it closed they do not count as failures either.
    fail_times(&mut breaker, now, 2);
    breaker.failed(&late[3], now, MIDDLE);
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[test]
fn probes_are_spread_around_the_reset_timeout() {
    for (random, expected) in [
        (0.0, 750),
        (0.5, 1_000),
        (1.0, 1_250),
        (9.0, 1_250),
        (-9.0, 750),
    ] {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(SETTINGS);
        for _ in 0..3 {
            let ticket = ticket(&mut breaker, now);
            breaker.failed(&ticket, now, random);
        }
        assert_eq!(
            refused_for(&mut breaker, now),
            Some(ms(expected)),
            "{random}"
        );
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let default = CircuitBreakerSettings::default();
    assert_eq!(default.validate(), Ok(default));
    assert_eq!(default.max_failures, 10);
    assert_eq!(default.call_timeout, Duration::from_secs(10));
    assert_eq!(default.reset_timeout, Duration::from_secs(1));
    let never = CircuitBreakerSettings {
        max_failures: 0,
        ..default
    };
    assert_eq!(
        never.validate(),
        Err(InvalidCircuitBreakerSettings::NoFailures)
    );
    for value in [Duration::ZERO, CIRCUIT_BREAKER_LIMIT + ms(1)] {
        let call = CircuitBreakerSettings {
            call_timeout: value,
            ..default
        };
        let key = "call_timeout";
        assert_eq!(
            call.validate(),
            Err(InvalidCircuitBreakerSettings::Time { key, value })
        );
        let reset = CircuitBreakerSettings {
            reset_timeout: value,
            ..default
        };
        let key = "reset_timeout";
        assert_eq!(
            reset.validate(),
            Err(InvalidCircuitBreakerSettings::Time { key, value })
        );
    }
    let longest = CircuitBreakerSettings {
        call_timeout: CIRCUIT_BREAKER_LIMIT,
        reset_timeout: CIRCUIT_BREAKER_LIMIT,
        max_failures: 1,
    };
    assert_eq!(longest.validate(), Ok(longest));
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Admit,
    Report {
        which: usize,
        well: bool,
        random: f64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0_u64..3_000).prop_map(Step::Wait),
        3 => Just(Step::Admit),
        3 => (0_usize..8, prop::bool::weighted(0.3), 0.0..1.0)
            .prop_map(|(which, well, random)| Step::Report { which, well, random }),
    ]
}

proptest! {
    /// Whatever happens: while it is not closed at most one call goes out in
    /// three quarters of the reset time-out, and it never refuses for ever.
    #[test]
    fn a_failing_journal_is_spared_and_never_given_up(steps in prop::collection::vec(step(), 0..200)) {
        let mut now = Instant::now();
        let mut breaker = CircuitBreaker::new(SETTINGS);
        let mut tickets: Vec<Ticket> = Vec::new();
        let mut opened_at: Option<Instant> = None;
        for step in steps {
            match step {
                Step::Wait(wait) => now += ms(wait),
                Step::Admit => {
                    let before = breaker.state();
                    match breaker.admit(now) {
                        Admittance::Send(ticket) => {
                            if before == CircuitState::Open {
                                let rested = opened_at.map(|at| now - at);
                                prop_assert!(rested >= Some(ms(750)), "{rested:?}");
                            }
                            prop_assert_eq!(breaker.state() == CircuitState::Closed, before == CircuitState::Closed);
                            tickets.push(ticket);
                        }
                        Admittance::Refuse { retry_after } => {
                            prop_assert!(before != CircuitState::Closed);
                            prop_assert!(retry_after > Duration::ZERO && retry_after <= ms(1_250));
                        }
                    }
                }
                Step::Report { which, well, random } => {
                    if which < tickets.len() {
                        let ticket = tickets.swap_remove(which);
                        let before = breaker.state();
                        if well {
                            breaker.succeeded(&ticket);
                            prop_assert!(breaker.state() != CircuitState::Open || before == CircuitState::Open);
                        } else {
                            breaker.failed(&ticket, now, random);
                            if before != CircuitState::Open && breaker.state() == CircuitState::Open {
                                opened_at = Some(now);
                            }
                        }
                    }
                }
            }
        }
        // Left alone for long enough, it lets a call through.
        now += SETTINGS.call_timeout + ms(1_250);
        prop_assert!(matches!(breaker.admit(now), Admittance::Send(_)));
    }
}
