//! Doubling, the random part, and what makes failures forgotten.

use super::*;

const SETTINGS: BackoffSettings = BackoffSettings {
    min: Duration::from_secs(3),
    max: Duration::from_secs(30),
    random_factor: 0.2,
};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn the_delay_doubles_from_min_to_max() {
    let mut now = Instant::now();
    let mut backoff = Backoff::first_failure(&SETTINGS, now, 0.0);
    for (failures, expected) in [3, 6, 12, 24, 30, 30, 30].into_iter().enumerate() {
        assert_eq!(backoff.failures() as usize, failures + 1);
        assert_eq!(backoff.remaining(now), Some(secs(expected)));
        now += secs(expected);
        backoff.starting(&SETTINGS, now);
        backoff.failed(&SETTINGS, now, 0.0);
    }
}

#[test]
fn any_number_of_failures_stays_at_max() {
    for failures in [5, 31, 32, 33, 34, 64, 65, u32::MAX] {
        assert_eq!(SETTINGS.delay(failures), SETTINGS.max, "{failures}");
    }
    let widest = BackoffSettings {
        min: Duration::from_nanos(1),
        max: BACKOFF_LIMIT,
        random_factor: 1.0,
    };
    assert_eq!(widest.delay(u32::MAX), BACKOFF_LIMIT);
}

#[test]
fn the_random_part_adds_up_to_its_factor() {
    let now = Instant::now();
    let delay = |random| Backoff::first_failure(&SETTINGS, now, random).remaining(now);
    assert_eq!(delay(0.0), Some(secs(3)));
    assert_eq!(delay(0.5), Some(Duration::from_millis(3_300)));
    assert_eq!(delay(1.0), Some(Duration::from_millis(3_600)));
    assert_eq!(delay(7.0), Some(Duration::from_millis(3_600)));
    assert_eq!(delay(-7.0), Some(secs(3)));
}

#[test]
fn remaining_counts_down_to_nothing() {
    let now = Instant::now();
    let backoff = Backoff::first_failure(&SETTINGS, now, 0.0);
    assert_eq!(backoff.remaining(now + secs(1)), Some(secs(2)));
    assert_eq!(backoff.remaining(now + secs(3)), None);
    assert_eq!(backoff.remaining(now + secs(4)), None);
}

fn failed_three_times(now: Instant) -> Backoff {
    let mut backoff = Backoff::first_failure(&SETTINGS, now, 0.0);
    backoff.failed(&SETTINGS, now, 0.0);
    backoff.failed(&SETTINGS, now, 0.0);
    assert_eq!(backoff.failures(), 3);
    backoff
}

#[test]
fn a_run_of_max_forgets_the_failures() {
    let now = Instant::now();
    for (ran, failures_then) in [(secs(30), 1), (secs(29), 4)] {
        let mut backoff = failed_three_times(now);
        let started = now + secs(12);
        backoff.starting(&SETTINGS, started);
        backoff.recovered(started);
        assert_eq!(backoff.remaining(started), None);
        assert_eq!(
            backoff.is_forgotten(&SETTINGS, started + ran),
            ran == secs(30)
        );
        backoff.failed(&SETTINGS, started + ran, 0.0);
        assert_eq!(backoff.failures(), failures_then, "ran {ran:?}");
    }
}

#[test]
fn a_slow_recovery_is_no_quiet_time() {
    let mut now = Instant::now();
    let mut backoff = failed_three_times(now);
    now += secs(12);
    backoff.starting(&SETTINGS, now);
    // A recovery that ends by its time-out.
    now += secs(90);
    assert!(!backoff.is_forgotten(&SETTINGS, now));
    backoff.failed(&SETTINGS, now, 0.0);
    assert_eq!(backoff.failures(), 4);
    assert_eq!(backoff.remaining(now), Some(secs(24)));
}

#[test]
fn an_entity_nobody_asks_for_is_forgotten() {
    let now = Instant::now();
    let mut backoff = failed_three_times(now);
    let over = now + secs(12);
    assert!(!backoff.is_forgotten(&SETTINGS, now));
    assert!(!backoff.is_forgotten(&SETTINGS, over + secs(29)));
    assert!(backoff.is_forgotten(&SETTINGS, over + secs(30)));
    backoff.starting(&SETTINGS, over + secs(30));
    backoff.failed(&SETTINGS, over + secs(30), 0.0);
    assert_eq!(backoff.failures(), 1);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let with = |min, max, random_factor| {
        BackoffSettings {
            min,
            max,
            random_factor,
        }
        .validate()
    };
    assert_eq!(BackoffSettings::default().validate(), Ok(SETTINGS));
    assert!(with(secs(3), secs(3), 0.0).is_ok());
    assert!(with(secs(3), secs(3), 1.0).is_ok());
    let min_is_zero = InvalidBackoffSettings::MinIsZero;
    assert_eq!(with(secs(0), secs(3), 0.0), Err(min_is_zero));
    let error = with(secs(4), secs(3), 0.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "persistence.backoff.min (4s) is longer than persistence.backoff.max (3s): swap or change them"
    );
    assert!(with(secs(3), BACKOFF_LIMIT, 0.0).is_ok());
    let max = BACKOFF_LIMIT + secs(1);
    let too_long = InvalidBackoffSettings::MaxTooLong { max };
    assert_eq!(with(secs(3), max, 0.0), Err(too_long));
    for random_factor in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = with(secs(3), secs(4), random_factor).unwrap_err();
        assert!(matches!(error, InvalidBackoffSettings::RandomFactor { .. }));
    }
}

#[test]
fn it_is_small() {
    assert!(size_of::<Backoff>() <= 32);
}

#[test]
fn an_interruption_is_no_failure_and_is_forgotten_in_time() {
    let now = Instant::now();
    let mut backoff = Backoff::first_failure(&SETTINGS, now, 0.0);
    let now = now + secs(3);
    backoff.starting(&SETTINGS, now);
    backoff.interrupted(now + secs(1));
    assert_eq!(backoff.remaining(now + secs(1)), None);
    assert_eq!(backoff.failures(), 1);
    assert!(!backoff.is_forgotten(&SETTINGS, now + secs(30)));
    assert!(backoff.is_forgotten(&SETTINGS, now + secs(31)));
    // One that is up is not being started.
    backoff.recovered(now);
    backoff.interrupted(now + secs(10));
    assert!(backoff.is_forgotten(&SETTINGS, now + secs(30)));
}
