//! Histories made by hand, good and bad; histories made from a real order, and the same
//! with an answer changed; and short ones of all kinds, decided by an independent tester.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::*;
use crate::history::model::account::{Account, AccountCall, Rejection};
use crate::history::model::counter::{Counter, CounterCall};
use crate::history::model::register::{Register, RegisterCall, RegisterReply};
use crate::history::{Call, Operation};

const EFFORT: usize = 1_000_000;

fn operation<C, R>(call: C, from: Moment, to: Moment, reply: R) -> Operation<C, R> {
    Operation {
        invocation: invocation(call, from),
        outcome: Outcome::Completed { reply, at: to },
    }
}

fn unknown<C, R>(call: C, from: Moment) -> Operation<C, R> {
    Operation {
        invocation: invocation(call, from),
        outcome: Outcome::Unknown,
    }
}

fn invocation<C>(call: C, at: Moment) -> Call<C> {
    let client = 0;
    Call { client, call, at }
}

fn verdict<M: Model>(operations: &[OperationOf<M>], effort_max: usize) -> Verdict {
    let operations: Vec<_> = operations.iter().collect();
    check::<M>(&operations, effort_max)
}

#[track_caller]
fn good<M: Model>(operations: &[OperationOf<M>]) {
    assert_eq!(verdict::<M>(operations, EFFORT), Verdict::Linearizable);
}

#[track_caller]
fn bad<M: Model>(operations: &[OperationOf<M>]) -> Violation {
    match verdict::<M>(operations, EFFORT) {
        Verdict::Violation(violation) => violation,
        other => panic!("{other:?}"),
    }
}

fn add(amount: i64, from: Moment, to: Moment, value: i64) -> OperationOf<Counter> {
    operation(CounterCall::Add(amount), from, to, value)
}

fn get(from: Moment, to: Moment, value: i64) -> OperationOf<Counter> {
    operation(CounterCall::Get, from, to, value)
}

fn add_unknown(amount: i64, from: Moment) -> OperationOf<Counter> {
    unknown(CounterCall::Add(amount), from)
}

fn write(value: u64, from: Moment, to: Moment) -> OperationOf<Register> {
    operation(RegisterCall::Write(value), from, to, RegisterReply::Written)
}

fn read(from: Moment, to: Moment, value: Option<u64>) -> OperationOf<Register> {
    operation(RegisterCall::Read, from, to, RegisterReply::Value(value))
}

#[test]
fn nothing_and_one_after_the_other_are_good() {
    good::<Counter>(&[]);
    good::<Counter>(&[add(1, 0, 1, 1), add(2, 2, 3, 3), get(4, 5, 3)]);
    // Whatever order they are given in.
    good::<Counter>(&[get(4, 5, 3), add(2, 2, 3, 3), add(1, 0, 1, 1)]);
}

#[test]
fn operations_at_the_same_time_have_either_order() {
    good::<Counter>(&[add(1, 0, 10, 3), add(2, 0, 10, 2), get(5, 6, 2)]);
    good::<Counter>(&[add(1, 0, 10, 1), add(2, 0, 10, 3), get(5, 6, 0)]);
    // One begins at the very moment the other is answered: either order.
    good::<Counter>(&[add(1, 0, 5, 3), add(2, 5, 9, 2)]);
}

#[test]
fn a_stale_read_is_bad() {
    let violation = bad::<Counter>(&[add(1, 0, 1, 1), get(2, 3, 0)]);
    assert_eq!(violation.explained, [0]);
    assert_eq!(violation.unexplained, [1]);
    assert_eq!(violation.state, "1");
    bad::<Register>(&[write(1, 0, 1), write(2, 2, 3), read(4, 5, Some(1))]);
    bad::<Register>(&[write(1, 0, 1), read(2, 3, None)]);
    // What one reader has seen, a later one must see.
    bad::<Register>(&[write(1, 0, 9), read(1, 2, Some(1)), read(3, 4, None)]);
}

#[test]
fn a_lost_update_is_bad() {
    bad::<Counter>(&[add(1, 0, 9, 1), add(1, 0, 9, 1), get(10, 11, 1)]);
    bad::<Counter>(&[add(1, 0, 1, 1), add(1, 2, 3, 2), get(4, 5, 1)]);
}

#[test]
fn a_duplicate_effect_is_bad() {
    bad::<Counter>(&[add(1, 0, 1, 1), get(2, 3, 2)]);
    bad::<Counter>(&[add(1, 0, 1, 1), add(5, 2, 3, 11)]);
    // Of an operation of unknown outcome too: it may be there once.
    bad::<Counter>(&[add_unknown(5, 0), get(1, 2, 10)]);
}

#[test]
fn an_unknown_operation_may_take_effect_late_or_never() {
    good::<Counter>(&[add_unknown(5, 0), get(1, 2, 0), get(3, 4, 0)]);
    good::<Counter>(&[add_unknown(5, 0), get(1, 2, 5)]);
    good::<Counter>(&[add_unknown(5, 0), get(1, 2, 0), get(100, 101, 5)]);
    good::<Counter>(&[add_unknown(5, 0), add_unknown(5, 1), get(2, 3, 10)]);
}

#[test]
fn an_unknown_effect_that_was_seen_stays() {
    bad::<Counter>(&[add_unknown(5, 0), get(1, 2, 5), get(3, 4, 0)]);
    bad::<Counter>(&[
        add_unknown(5, 0),
        add_unknown(5, 1),
        get(2, 3, 10),
        get(4, 5, 5),
    ]);
}

#[test]
fn an_effect_before_its_operation_began_is_bad() {
    bad::<Counter>(&[get(0, 1, 5), add(5, 2, 3, 5)]);
    bad::<Counter>(&[get(0, 1, 5), add_unknown(5, 2)]);
    bad::<Register>(&[read(0, 1, Some(1)), write(1, 2, 3)]);
}

#[test]
fn a_reply_from_the_future_is_bad() {
    // The first is answered, with the second in its answer, before that began.
    bad::<Counter>(&[add(1, 0, 1, 3), add(2, 2, 3, 2)]);
}

#[test]
fn reordered_operations_are_bad() {
    let order = [write(1, 0, 1), write(2, 2, 3), read(4, 5, Some(2))];
    good::<Register>(&order);
    bad::<Register>(&[
        write(1, 0, 1),
        write(2, 2, 3),
        read(4, 5, Some(2)),
        read(6, 7, Some(1)),
    ]);
    // Two readers that saw two writes in different orders.
    bad::<Register>(&[
        write(1, 0, 20),
        write(2, 0, 20),
        read(1, 2, Some(1)),
        read(3, 4, Some(2)),
        read(5, 6, Some(1)),
    ]);
}

#[test]
fn rejections_are_answers() {
    let account =
        |call, from, to, reply| -> OperationOf<Account> { operation(call, from, to, reply) };
    good::<Account>(&[
        account(AccountCall::Balance, 0, 1, Err(Rejection::NotOpen)),
        account(AccountCall::Open, 2, 9, Ok(0)),
        account(AccountCall::Open, 2, 9, Err(Rejection::AlreadyOpen)),
        account(AccountCall::Deposit(10), 10, 20, Ok(10)),
        account(AccountCall::Withdraw(4), 10, 20, Ok(6)),
        account(
            AccountCall::Withdraw(7),
            21,
            22,
            Err(Rejection::InsufficientFunds),
        ),
        account(
            AccountCall::Deposit(0),
            21,
            22,
            Err(Rejection::AmountInvalid),
        ),
        account(AccountCall::Close, 23, 24, Err(Rejection::BalanceNotZero)),
        account(AccountCall::Withdraw(6), 25, 26, Ok(0)),
        account(AccountCall::Close, 27, 28, Ok(0)),
        account(AccountCall::Deposit(1), 29, 30, Err(Rejection::Closed)),
    ]);
    bad::<Account>(&[
        account(AccountCall::Open, 0, 1, Ok(0)),
        account(AccountCall::Deposit(10), 2, 3, Ok(10)),
        account(
            AccountCall::Withdraw(10),
            4,
            5,
            Err(Rejection::InsufficientFunds),
        ),
    ]);
}

#[test]
fn effort_is_bounded() {
    let writes = (0..12).map(|value| write(value, 0, 100));
    let mut operations: Vec<_> = writes.collect();
    operations.push(read(101, 102, Some(99)));
    let effort_max = 100;
    let undecided = Verdict::Undecided {
        explored: effort_max,
    };
    assert_eq!(verdict::<Register>(&operations, effort_max), undecided);
    bad::<Register>(&operations);
}

#[test]
fn long_histories_with_lost_clients_take_little_effort() {
    let mut operations = Vec::new();
    let mut value = 0;
    for number in 0..20_000 {
        let from = number * 10;
        if number % 50 == 7 {
            operations.push(add_unknown(1, from));
            value += i64::from(number % 100 == 7);
            continue;
        }
        value += 1;
        operations.push(add(1, from, from + 25, value));
    }
    let effort_max = 10 * operations.len();
    let found = verdict::<Counter>(&operations, effort_max);
    assert_eq!(found, Verdict::Linearizable);
}

#[test]
fn only_what_is_wrong_is_reported() {
    let mut history: History<Counter> = History::default();
    let call = |call, at| Call {
        client: 1,
        call,
        at,
    };
    let first = history.invoke("good", call(CounterCall::Add(1), 0));
    let read = history.invoke("good", call(CounterCall::Get, 1));
    let stale = history.invoke("bad", call(CounterCall::Get, 0));
    history.complete(first, 1, 5);
    history.complete(stale, 1, 5);
    history.withdraw(read);
    assert_eq!(history.len(), 2);
    let wrong = check_all(&history, EFFORT);
    assert_eq!(wrong.keys().collect::<Vec<_>>(), ["bad"]);
}

/// An operation before it is run: what is asked, how long before and after its effect
/// it is under way, and what becomes of it.
#[derive(Debug, Clone)]
struct Draft<C> {
    call: C,
    before: Moment,
    after: Moment,
    /// 0: of unknown outcome without an effect, 1: with one, else answered.
    fate: u8,
}

fn draft_from<C>(call: C, before: Moment, after: Moment, fate: u8) -> Draft<C> {
    Draft {
        call,
        before,
        after,
        fate,
    }
}

/// Runs the model in the order of the drafts: a history that has an order.
fn in_order<M: Model>(drafts: &[Draft<M::Call>]) -> Vec<OperationOf<M>> {
    let mut state = M::State::default();
    let mut moment = 1_000;
    let mut operations = Vec::new();
    for draft in drafts {
        moment += 10;
        let from = moment - draft.before;
        let call = draft.call.clone();
        if draft.fate == 0 {
            operations.push(unknown(call, from));
            continue;
        }
        let (next, reply) = M::run(&state, &call);
        state = next;
        operations.push(match draft.fate {
            1 => unknown(call, from),
            _ => operation(call, from, moment + draft.after, reply),
        });
    }
    operations
}

fn counter_drafts(len: usize) -> impl Strategy<Value = Vec<Draft<CounterCall>>> {
    let call = prop_oneof![(1i64..4).prop_map(CounterCall::Add), Just(CounterCall::Get)];
    let draft = (call, 0u64..60, 0u64..60, 0u8..12);
    let draft = draft.prop_map(|(call, before, after, fate)| draft_from(call, before, after, fate));
    prop::collection::vec(draft, 1..len)
}

fn register_drafts(len: usize) -> impl Strategy<Value = Vec<Draft<RegisterCall>>> {
    let call = prop_oneof![
        (0u64..4).prop_map(RegisterCall::Write),
        Just(RegisterCall::Read)
    ];
    let draft = (call, 0u64..60, 0u64..60, 0u8..12);
    let draft = draft.prop_map(|(call, before, after, fate)| draft_from(call, before, after, fate));
    prop::collection::vec(draft, 1..len)
}

proptest! {
    #[test]
    fn a_history_with_an_order_is_good(
        counter in counter_drafts(60),
        register in register_drafts(40),
    ) {
        good::<Counter>(&in_order::<Counter>(&counter));
        good::<Register>(&in_order::<Register>(&register));
    }

    /// The independent tester looks at every order there is.
    #[test]
    fn short_histories_are_decided_as_by_brute_force(
        counter in counter_drafts(7),
        register in register_drafts(7),
        changed in any::<prop::sample::Index>(),
        by in 0u64..4,
    ) {
        let mut counter = in_order::<Counter>(&counter);
        let place = changed.index(counter.len());
        if let Outcome::Completed { reply, .. } = &mut counter[place].outcome {
            *reply += by as i64;
        }
        let found = verdict::<Counter>(&counter, EFFORT) == Verdict::Linearizable;
        prop_assert_eq!(found, by_brute_force::<Counter>(&counter));

        let mut register = in_order::<Register>(&register);
        let place = changed.index(register.len());
        if let Outcome::Completed { reply: RegisterReply::Value(value), .. } =
            &mut register[place].outcome
        {
            *value = Some(by);
        }
        let found = verdict::<Register>(&register, EFFORT) == Verdict::Linearizable;
        prop_assert_eq!(found, by_brute_force::<Register>(&register));
    }
}

/// Most histories with an order are spoilt by one changed answer, and that is seen.
#[test]
fn a_changed_answer_is_mostly_bad() {
    let mut runner = TestRunner::new(Config::with_cases(300));
    let refused = std::cell::Cell::new((0, 0));
    let drafts = (counter_drafts(40), any::<prop::sample::Index>());
    let run = runner.run(&drafts, |(drafts, changed)| {
        let mut operations = in_order::<Counter>(&drafts);
        let place = changed.index(operations.len());
        let Outcome::Completed { reply, .. } = &mut operations[place].outcome else {
            return Ok(());
        };
        *reply += 1;
        let is_bad = verdict::<Counter>(&operations, EFFORT) != Verdict::Linearizable;
        let (bad, all) = refused.get();
        refused.set((bad + u32::from(is_bad), all + 1));
        Ok(())
    });
    run.unwrap();
    let (bad, all) = refused.get();
    println!("{bad} of {all} changed histories are bad");
    assert!(all > 100 && bad * 10 > all * 8, "{bad} of {all}");
}

/// A model as the independent tester wants it.
#[derive(Clone)]
struct Spec<M: Model>(M::State);

impl<M: Model> SequentialSpec for Spec<M> {
    type Op = M::Call;
    type Ret = M::Reply;

    fn invoke(&mut self, call: &M::Call) -> M::Reply {
        let (state, reply) = M::run(&self.0, call);
        self.0 = state;
        reply
    }
}

fn by_brute_force<M: Model + Clone>(operations: &[OperationOf<M>]) -> bool {
    // At the same moment, beginnings come first: they overlap what ends then.
    let mut moments: Vec<(Moment, bool, usize)> = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        moments.push((operation.invocation.at, false, index));
        if let Outcome::Completed { at, .. } = operation.outcome {
            moments.push((at, true, index));
        }
    }
    moments.sort_unstable();
    let mut tester = LinearizabilityTester::new(Spec::<M>(M::State::default()));
    for (_, ends, index) in moments {
        let Operation {
            invocation,
            outcome,
        } = &operations[index];
        // Each operation as a thread of its own: one of unknown outcome blocks no other.
        match outcome {
            Outcome::Completed { reply, .. } if ends => {
                tester.on_return(index, reply.clone()).unwrap();
            }
            _ => {
                tester.on_invoke(index, invocation.call.clone()).unwrap();
            }
        }
    }
    tester.is_consistent()
}
