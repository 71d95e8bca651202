//! What clients do to accounts.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::attempt::Answer;
use super::{SoakClient, with_id};
use crate::client::{self, command};
use crate::history::journal::Fate;
use crate::history::model::account::{AccountCall, Rejection};

/// What an account is opened with; enough for most withdrawals.
const OPENED_WITH: i64 = 1_000;

impl SoakClient {
    /// Opens all accounts and puts money into them.
    ///
    /// # Errors
    /// As [`SoakClient::run`].
    pub async fn open_accounts(&mut self) -> Result<()> {
        for number in 0..self.entities.accounts {
            let account = self.entities.account(number);
            self.account_command(&account, AccountCall::Open).await?;
            let deposit = AccountCall::Deposit(OPENED_WITH);
            let (reply, _) = self.account_command_reply(&account, deposit).await?;
            let mut book = self.record.book();
            book.put_in += OPENED_WITH;
            if !matches!(reply, Some(Ok(_))) {
                book.unsettled += OPENED_WITH;
            }
        }
        Ok(())
    }

    pub(super) async fn move_money(&mut self) -> Result<()> {
        let from = self.any_account();
        let to = self.any_account();
        let amount = self.any_amount();
        let taken = AccountCall::Withdraw(amount);
        let (reply, fate) = self.account_command_reply(&from, taken).await?;
        if fate == Fate::Unknown {
            self.record.book().unsettled += amount;
        }
        if !matches!(reply, Some(Ok(_))) {
            return Ok(());
        }
        let put_in = AccountCall::Deposit(amount);
        let (reply, _) = self.account_command_reply(&to, put_in).await?;
        if !matches!(reply, Some(Ok(_))) {
            self.record.book().unsettled += amount;
        }
        Ok(())
    }

    pub(super) async fn ask_an_account(&mut self) -> Result<()> {
        let account = self.any_account();
        let call = match self.random.below(5) {
            0 => AccountCall::Open,
            1 => AccountCall::Withdraw(1_000_000),
            2 => AccountCall::Deposit(0),
            3 => AccountCall::Withdraw(-1),
            _ => AccountCall::Balance,
        };
        self.account_command(&account, call).await
    }

    pub(super) async fn account_command(&mut self, account: &str, call: AccountCall) -> Result<()> {
        self.account_command_reply(account, call).await.map(|_| ())
    }

    /// Sends a command to an account until it is answered; the answer, and what became
    /// of all attempts together.
    async fn account_command_reply(
        &mut self,
        account: &str,
        call: AccountCall,
    ) -> Result<(Option<Result<i64, Rejection>>, Fate)> {
        let is_read = call == AccountCall::Balance;
        let mut request = command("account", account, &account_json(call));
        if !is_read {
            request = with_id(request);
        }
        let began = self.record.now();
        let persistence = self.nodes.until_answered(&request, &self.record).await?;
        let now = self.record.now();
        let at = if is_read {
            persistence.last_began
        } else {
            began
        };
        let may_be_there = persistence.may_be_there && !is_read;
        let (reply, fate) = match &persistence.answer {
            Answer::Reply(response) => {
                let balance = client::json(response)?["balance"].as_i64();
                let sequence_nr = response.sequence_nr;
                (
                    Some(Ok(balance.context("no balance in the reply")?)),
                    Fate::Acknowledged { sequence_nr },
                )
            }
            Answer::Rejected(reason) => {
                let rejection = Rejection::from_reason(reason);
                let rejection = rejection.with_context(|| format!("rejected with {reason}"))?;
                (Some(Err(rejection)), Fate::NotApplied)
            }
            Answer::NotApplied(_) => (None, Fate::NotApplied),
            Answer::Unknown(_) => (None, Fate::Unknown),
        };
        let acknowledged = matches!(fate, Fate::Acknowledged { .. });
        // A rejection is the answer to the last attempt. One before it may still be on
        // its way, and find the account in another state.
        let fate = if may_be_there && !acknowledged {
            Fate::Unknown
        } else {
            fate
        };
        {
            let mut book = self.record.book();
            book.counts.operations += 1;
            book.counts.commands += u64::from(!is_read);
            if fate == Fate::Unknown && !is_read {
                book.accounts.invoke(account, self.call(call, began));
            }
            if let Some(reply) = reply {
                let operation = book.accounts.invoke(account, self.call(call, at));
                book.accounts.complete(operation, reply, now);
            }
            match (&reply, fate) {
                (Some(_), _) if is_read => book.counts.reads += 1,
                (Some(Ok(_)), _) => book.counts.acknowledged += 1,
                (Some(Err(_)), _) => book.counts.rejected += 1,
                (None, Fate::NotApplied) => book.counts.not_applied += 1,
                (None, _) if is_read => {}
                (None, _) => book.counts.unknown += 1,
            }
        }
        if acknowledged && !is_read {
            self.record.took(began);
        }
        self.note_fate(&request, fate);
        Ok((reply, fate))
    }
}

fn account_json(call: AccountCall) -> Value {
    match call {
        AccountCall::Open => json!({"open": {"owner": "soak"}}),
        AccountCall::Deposit(amount) => json!({"deposit": {"amount": amount}}),
        AccountCall::Withdraw(amount) => json!({"withdraw": {"amount": amount}}),
        AccountCall::Balance => json!("balance"),
        AccountCall::Close => json!("close"),
    }
}
