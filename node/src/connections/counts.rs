//! How many connections there are, in total and from each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Gauge, gauge};

use super::CONNECTIONS;

/// The connections of one port.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    table: Arc<Mutex<Table>>,
    shown: Gauge,
}

/// A connection that is counted for as long as this is there.
#[derive(Debug)]
pub(crate) struct Counted {
    of: Counts,
    group: IpAddr,
}

/// Which limit a connection would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Port,
    Address,
}

#[derive(Debug)]
struct Table {
    total: usize,
    total_max: usize,
    per_group_max: usize,
    groups: HashMap<IpAddr, usize>,
}

impl Table {
    fn admit(&mut self, group: IpAddr) -> Result<(), Full> {
        if self.total >= self.total_max {
            return Err(Full::Port);
        }
        let count = self.groups.entry(group).or_default();
        if *count >= self.per_group_max {
            return Err(Full::Address);
        }
        *count += 1;
        self.total += 1;
        Ok(())
    }

    fn release(&mut self, group: IpAddr) {
        self.total -= 1;
        if let Some(count) = self.groups.get_mut(&group) {
            *count -= 1;
            // So that there are never more addresses than connections.
            if *count == 0 {
                self.groups.remove(&group);
            }
        }
    }
}

impl Counts {
    pub(super) fn new(port: &'static str, total_max: usize, per_address_max: usize) -> Self {
        let table = Table {
            total: 0,
            total_max,
            per_group_max: per_address_max,
            groups: HashMap::new(),
        };
        Self {
            table: Arc::new(Mutex::new(table)),
            shown: gauge!(CONNECTIONS, "port" => port),
        }
    }

    /// Counts a connection from an address.
    pub(super) fn admit(&self, address: IpAddr) -> Result<Counted, Full> {
        let group = group_of(address);
        self.locked(|table| table.admit(group))?;
        Ok(Counted {
            of: self.clone(),
            group,
        })
    }

    fn locked<T>(&self, work: impl FnOnce(&mut Table) -> T) -> T {
        // Whole between any two statements that can panic, of which there are none.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut table);
        self.shown.set(table.total as f64);
        done
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of.locked(|table| table.release(self.group));
    }
}

/// Who has one IPv6 address has the other 2^64 of its network too.
fn group_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_until_a_connection_ends() {
        let counts = Counts::new("test", 3, 2);
        let admit = |text: &str| counts.admit(text.parse().unwrap());
        let first = admit("10.0.0.1").unwrap();
        let _second = admit("10.0.0.1").unwrap();
        assert_eq!(admit("10.0.0.1").unwrap_err(), Full::Address);
        let _third = admit("10.0.0.2").unwrap();
        assert_eq!(admit("10.0.0.3").unwrap_err(), Full::Port);
        drop(first);
        let _fourth = admit("10.0.0.1").unwrap();
        assert_eq!(counts.locked(|table| table.groups.len()), 2);
    }

    #[test]
    fn addresses_that_are_one_clients_count_together() {
        let group = |text: &str| group_of(text.parse().unwrap());
        assert_eq!(group("2001:db8::1"), group("2001:db8::ffff:1"));
        assert_ne!(group("2001:db8::1"), group("2001:db8:0:1::1"));
        assert_eq!(group("::ffff:10.0.0.1"), group("10.0.0.1"));
        assert_ne!(group("10.0.0.1"), group("10.0.0.2"));
    }
}
