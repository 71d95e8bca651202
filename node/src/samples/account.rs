//! An entity with rules and a life cycle: a bank account.
//!
//! | command | reply | rejected with |
//! |---|---|---|
//! | `{"open":{"owner":"ada"}}` | `{"balance":0}` | ALREADY_OPEN, CLOSED |
//! | `{"deposit":{"amount":100}}` | `{"balance":100}` | NOT_OPEN, CLOSED, AMOUNT_INVALID |
//! | `{"withdraw":{"amount":30}}` | `{"balance":70}` | the same, INSUFFICIENT_FUNDS |
//! | `"balance"` | `{"balance":70}` | NOT_OPEN, CLOSED |
//! | `"close"` | `{"balance":0}` | NOT_OPEN, CLOSED, BALANCE_NOT_ZERO |
//!
//! Amounts are positive whole numbers of the currency's minor unit (cents).

use perennial_persistence::codec::Json;
use perennial_persistence::effect::Effect;
use perennial_persistence::event_sourced::EventSourced;
use serde::{Deserialize, Serialize};

/// The definition of the entity type `account`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Account;

/// Where an account is in its life. An enum, so that each stage holds what it
/// has and nothing else: there is no balance to misread before opening.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// Not opened yet.
    #[default]
    NotOpen,
    /// In use.
    Open {
        /// Whose it is.
        owner: String,
        /// In minor units; never negative.
        balance: i64,
    },
    /// Closed for good.
    Closed {
        /// Whose it was.
        owner: String,
    },
}

/// What an account is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountCommand {
    /// Open it.
    Open {
        /// Whose it is.
        owner: String,
    },
    /// Put money in.
    Deposit {
        /// In minor units, positive.
        amount: i64,
    },
    /// Take money out.
    Withdraw {
        /// In minor units, positive, at most the balance.
        amount: i64,
    },
    /// Only tell the balance.
    Balance,
    /// Close it for good; it must be empty.
    Close,
}

/// What has happened to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountEvent {
    /// It was opened.
    Opened {
        /// By whom.
        owner: String,
    },
    /// Money was put in.
    Deposited {
        /// In minor units.
        amount: i64,
    },
    /// Money was taken out.
    Withdrawn {
        /// In minor units.
        amount: i64,
    },
    /// It was closed.
    Closed,
}

/// What an account answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountReply {
    /// In minor units, after the command.
    pub balance: i64,
}

impl EventSourced for Account {
    const ENTITY_TYPE: &'static str = "account";
    type State = AccountState;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Reply = AccountReply;
    type Codec = Json;

    fn handle(&self, state: &AccountState, command: AccountCommand) -> Effect<Self> {
        // What an account may be asked depends on its stage first of all.
        match (state, command) {
            (AccountState::NotOpen, AccountCommand::Open { owner }) => {
                then_balance(Effect::persist(AccountEvent::Opened { owner }))
            }
            (AccountState::NotOpen, _) => {
                Effect::reject("NOT_OPEN", "the account is not open: open it first")
            }
            (AccountState::Closed { .. }, _) => {
                Effect::reject("CLOSED", "the account is closed for good: use another")
            }
            (AccountState::Open { owner, .. }, AccountCommand::Open { .. }) => Effect::reject(
                "ALREADY_OPEN",
                format!("the account is already open, for {owner:?}"),
            ),
            (AccountState::Open { balance, .. }, AccountCommand::Deposit { amount }) => {
                deposit(*balance, amount)
            }
            (AccountState::Open { balance, .. }, AccountCommand::Withdraw { amount }) => {
                withdraw(*balance, amount)
            }
            (AccountState::Open { .. }, AccountCommand::Balance) => then_balance(Effect::none()),
            (AccountState::Open { balance: 0, .. }, AccountCommand::Close) => {
                then_balance(Effect::persist(AccountEvent::Closed))
            }
            (AccountState::Open { balance, .. }, AccountCommand::Close) => Effect::reject(
                "BALANCE_NOT_ZERO",
                format!("the account holds {balance}: withdraw it first"),
            ),
        }
    }

    fn apply(&self, state: &mut AccountState, event: AccountEvent) {
        match event {
            AccountEvent::Opened { owner } => *state = AccountState::Open { owner, balance: 0 },
            AccountEvent::Deposited { amount } => {
                if let AccountState::Open { balance, .. } = state {
                    *balance += amount;
                }
            }
            AccountEvent::Withdrawn { amount } => {
                if let AccountState::Open { balance, .. } = state {
                    *balance -= amount;
                }
            }
            AccountEvent::Closed => {
                if let AccountState::Open { owner, .. } = state {
                    *state = AccountState::Closed {
                        owner: std::mem::take(owner),
                    };
                }
            }
        }
    }

    fn event_manifest(event: &AccountEvent) -> &'static str {
        match event {
            AccountEvent::Opened { .. } => "opened",
            AccountEvent::Deposited { .. } => "deposited",
            AccountEvent::Withdrawn { .. } => "withdrawn",
            AccountEvent::Closed => "closed",
        }
    }
}

fn deposit(balance: i64, amount: i64) -> Effect<Account> {
    if amount <= 0 {
        return amount_invalid(format!("cannot deposit {amount}: use a positive amount"));
    }
    if balance.checked_add(amount).is_none() {
        return amount_invalid(format!(
            "{balance} plus {amount} is more than an account can hold: deposit less"
        ));
    }
    then_balance(Effect::persist(AccountEvent::Deposited { amount }))
}

fn withdraw(balance: i64, amount: i64) -> Effect<Account> {
    if amount <= 0 {
        return amount_invalid(format!("cannot withdraw {amount}: use a positive amount"));
    }
    if amount > balance {
        return Effect::reject(
            "INSUFFICIENT_FUNDS",
            format!("the account holds {balance}, which is less than {amount}"),
        );
    }
    then_balance(Effect::persist(AccountEvent::Withdrawn { amount }))
}

fn amount_invalid(message: String) -> Effect<Account> {
    Effect::reject("AMOUNT_INVALID", message)
}

/// Answers with the balance after the events.
fn then_balance(effect: Effect<Account>) -> Effect<Account> {
    effect.then_reply(|state| AccountReply {
        balance: match state {
            AccountState::Open { balance, .. } => *balance,
            // A closed account is empty: `Close` sees to that.
            AccountState::NotOpen | AccountState::Closed { .. } => 0,
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Runs a command given as JSON; the balance, or the reason of the rejection.
    fn run(state: &mut AccountState, command: &str) -> Result<i64, String> {
        let effect = Account.handle(state, serde_json::from_str(command).unwrap());
        if let Some(reason) = effect.rejection() {
            return Err(reason.to_owned());
        }
        for event in effect.events() {
            Account.apply(state, event.clone());
        }
        Ok(effect.into_reply(state).unwrap().balance)
    }

    #[test]
    fn a_life_from_opening_to_closing() {
        let mut state = AccountState::default();
        for (command, expected) in [
            (r#""balance""#, Err("NOT_OPEN")),
            (r#"{"deposit":{"amount":1}}"#, Err("NOT_OPEN")),
            (r#""close""#, Err("NOT_OPEN")),
            (r#"{"open":{"owner":"ada"}}"#, Ok(0)),
            (r#"{"open":{"owner":"bob"}}"#, Err("ALREADY_OPEN")),
            (r#"{"deposit":{"amount":100}}"#, Ok(100)),
            (r#"{"deposit":{"amount":0}}"#, Err("AMOUNT_INVALID")),
            (r#"{"deposit":{"amount":-1}}"#, Err("AMOUNT_INVALID")),
            (
                r#"{"deposit":{"amount":9223372036854775807}}"#,
                Err("AMOUNT_INVALID"),
            ),
            (
                r#"{"withdraw":{"amount":-9223372036854775808}}"#,
                Err("AMOUNT_INVALID"),
            ),
            (r#"{"withdraw":{"amount":101}}"#, Err("INSUFFICIENT_FUNDS")),
            (r#"{"withdraw":{"amount":30}}"#, Ok(70)),
            (r#""balance""#, Ok(70)),
            (r#""close""#, Err("BALANCE_NOT_ZERO")),
            (r#"{"withdraw":{"amount":70}}"#, Ok(0)),
            (r#""close""#, Ok(0)),
            (r#""balance""#, Err("CLOSED")),
            (r#"{"open":{"owner":"ada"}}"#, Err("CLOSED")),
        ] {
            assert_eq!(
                run(&mut state, command),
                expected.map_err(str::to_owned),
                "{command}"
            );
        }
        assert_eq!(
            state,
            AccountState::Closed {
                owner: "ada".into()
            }
        );
    }

    #[test]
    fn every_state_survives_encoding() {
        for state in [
            AccountState::NotOpen,
            AccountState::Open {
                owner: "ada".into(),
                balance: 7,
            },
            AccountState::Closed {
                owner: "ada".into(),
            },
        ] {
            let json = serde_json::to_vec(&state).unwrap();
            assert_eq!(
                serde_json::from_slice::<AccountState>(&json).unwrap(),
                state
            );
        }
    }
}
