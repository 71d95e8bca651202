//! A bank account with a life cycle; every answer is the balance afterwards, or why
//! not.

use serde::{Deserialize, Serialize};

use super::Model;

/// The account.
#[derive(Debug, Clone, Copy)]
pub struct Account;

/// Where an account is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AccountState {
    /// Not opened yet.
    #[default]
    New,
    /// Open with this balance, which is never negative.
    Open(i64),
    /// Closed for good.
    Closed,
}

/// What it is asked. Amounts are minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountCall {
    /// Open it.
    Open,
    /// Put money in.
    Deposit(i64),
    /// Take money out.
    Withdraw(i64),
    /// Tell the balance.
    Balance,
    /// Close it.
    Close,
}

/// Why it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// It is open already.
    AlreadyOpen,
    /// It has to be opened first.
    NotOpen,
    /// It was closed.
    Closed,
    /// No amount that can be put in or taken out.
    AmountInvalid,
    /// It holds less.
    InsufficientFunds,
    /// It can only be closed when it is empty.
    BalanceNotZero,
}

impl Rejection {
    /// The rejection with this reason on the wire, if there is one.
    #[must_use]
    pub fn from_reason(reason: &str) -> Option<Self> {
        Some(match reason {
            "ALREADY_OPEN" => Self::AlreadyOpen,
            "NOT_OPEN" => Self::NotOpen,
            "CLOSED" => Self::Closed,
            "AMOUNT_INVALID" => Self::AmountInvalid,
            "INSUFFICIENT_FUNDS" => Self::InsufficientFunds,
            "BALANCE_NOT_ZERO" => Self::BalanceNotZero,
            _ => return None,
        })
    }
}

impl Model for Account {
    type State = AccountState;
    type Call = AccountCall;
    type Reply = Result<i64, Rejection>;

    fn run(state: &AccountState, call: &AccountCall) -> (AccountState, Result<i64, Rejection>) {
        let refused = |why| (*state, Err(why));
        let holds = |balance| (AccountState::Open(balance), Ok(balance));
        let balance = match (state, call) {
            (AccountState::New, AccountCall::Open) => return holds(0),
            (AccountState::New, _) => return refused(Rejection::NotOpen),
            (AccountState::Closed, _) => return refused(Rejection::Closed),
            (AccountState::Open(balance), _) => *balance,
        };
        match *call {
            AccountCall::Open => refused(Rejection::AlreadyOpen),
            AccountCall::Deposit(amount) | AccountCall::Withdraw(amount) if amount <= 0 => {
                refused(Rejection::AmountInvalid)
            }
            AccountCall::Deposit(amount) => match balance.checked_add(amount) {
                Some(sum) => holds(sum),
                None => refused(Rejection::AmountInvalid),
            },
            AccountCall::Withdraw(amount) if amount > balance => {
                refused(Rejection::InsufficientFunds)
            }
            AccountCall::Withdraw(amount) => holds(balance - amount),
            AccountCall::Balance => holds(balance),
            AccountCall::Close if balance == 0 => (AccountState::Closed, Ok(0)),
            AccountCall::Close => refused(Rejection::BalanceNotZero),
        }
    }
}
