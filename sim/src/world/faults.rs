//! What the schedule says, done to the world: faults begin and end at their time.
//!
//! Whom a fault strikes is decided when it begins; how it ends is fixed then, too.
//! Next: `schedule.rs`, where they come from.

use std::time::Duration;

use perennial_sharding::cluster_state::ClusterCommand;
use perennial_sharding::control_plane::ControlPlane;

use super::{LOOK, World};
use crate::network::Host;
use crate::process::Machine;
use crate::schedule::{Fault, Scheduled, Ways, Whom};

/// What is held at the same time arrives within so many milliseconds.
const HELD_SPREAD: u64 = 30;

/// Something the world does at its time.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Begin(Scheduled),
    End(Ending),
    Start(u32),
    /// Of a link that flaps: cut if set, and when it ends for good.
    Flap {
        host: Host,
        is_cut: bool,
        period: u64,
        until: u64,
    },
}

/// How a fault ends.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    Start(u32),
    StartAnew(u32),
    Resume(u32),
    Join(Vec<(Host, Host)>),
    SpeedUp(Vec<(Host, Host)>, (u64, u64)),
    LoseNoMore(Vec<(Host, Host)>, f64),
    Accept(f64),
    /// A machine that the hurried were told to send through.
    Disperse(u32, Vec<(Host, Host)>),
    /// Machines that clients were told to write elsewhere than through.
    Populate(Vec<u32>, Vec<(Host, Host)>),
}

impl World {
    pub(super) fn perform(&mut self, step: Step) {
        match step {
            Step::Begin(scheduled) => {
                self.trace.note(self.now, || format!("begins: {scheduled}"));
                self.begin(scheduled);
            }
            Step::End(ending) => {
                self.trace.note(self.now, || format!("ends: {ending:?}"));
                self.end(ending);
            }
            Step::Start(number) => self.start(number),
            Step::Flap {
                host,
                is_cut,
                period,
                until,
            } => {
                let links = self.to_nodes(host, Ways::Both);
                for &(from, to) in &links {
                    match is_cut {
                        true => self.network.join(from, to),
                        false => self.network.cut(from, to),
                    }
                }
                if !is_cut || self.now < until {
                    let again = Step::Flap {
                        host,
                        is_cut: !is_cut,
                        period,
                        until,
                    };
                    self.plan(self.now + period, again);
                }
            }
        }
    }

    fn begin(&mut self, scheduled: Scheduled) {
        let Scheduled { lasts, fault, .. } = scheduled;
        let ending = match fault {
            Fault::Crash(whom) => {
                let machine = self.machine(whom);
                self.machines[machine as usize].crash();
                Ending::Start(machine)
            }
            Fault::Pause(whom) => {
                let machine = self.machine(whom);
                self.machines[machine as usize].pause();
                Ending::Resume(machine)
            }
            Fault::Isolate(whom, ways) => {
                let host = self.host(whom);
                self.cut_off(self.to_nodes(host, ways))
            }
            Fault::CutOff(whom) => {
                let host = self.host(whom);
                let mut links = self.to_nodes(host, Ways::Both);
                links.extend(to_database(host));
                self.cut_off(links)
            }
            Fault::CutLink(one, other, ways) => {
                self.hints.crowd(one);
                let links = links(Host::Node(one), Host::Node(other), ways);
                self.cut(&links);
                Ending::Disperse(one, links)
            }
            Fault::Flap(whom, period) => {
                let flap = Step::Flap {
                    host: self.host(whom),
                    is_cut: false,
                    period,
                    until: self.now + lasts,
                };
                self.perform(flap);
                return;
            }
            Fault::Slow(whom, by) => {
                let host = self.host(whom);
                self.slow_down(self.to_nodes(host, Ways::Both), (0, by))
            }
            Fault::Lossy(percent) => {
                let share = f64::from(percent) / 100.0;
                let links = self.between_nodes();
                self.lose(links, share)
            }
            Fault::NoDatabase(whom) => {
                let host = self.host(whom);
                self.cut_off(to_database(host))
            }
            Fault::Outage => {
                let hosts = self.machines.iter().map(Machine::host);
                self.cut_off(hosts.flat_map(to_database).collect())
            }
            Fault::LateCommits(whom, by) => {
                let host = self.host(whom);
                self.slow_down(vec![(host, Host::Database)], (0, by))
            }
            Fault::Held(whom, by) => {
                let host = self.host(whom);
                self.hints.call_for_writes();
                self.slow_down(vec![(host, Host::Database)], (by, by + HELD_SPREAD))
            }
            Fault::Desert(whom, with_neighbour) => {
                let machine = self.machine(whom);
                let mut cut_off = vec![machine];
                if with_neighbour {
                    cut_off.push((machine + 1) % self.settings.machines);
                }
                self.desert(cut_off)
            }
            Fault::SlowDatabase(by) => {
                let hosts = self.machines.iter().map(Machine::host);
                let links = hosts.map(|host| (host, Host::Database)).collect();
                self.slow_down(links, (0, by))
            }
            Fault::LostAnswers(whom, percent) => {
                let link = (Host::Database, self.host(whom));
                self.lose(vec![link], f64::from(percent) / 100.0)
            }
            Fault::Refusals(percent) => {
                let share = f64::from(percent) / 100.0;
                self.database.refuse(share);
                Ending::Accept(share)
            }
            Fault::Restart(whom) => {
                let machine = self.machine(whom);
                self.machines[machine as usize].stop();
                Ending::Start(machine)
            }
            Fault::Replace(whom) => {
                let machine = self.machine(whom);
                self.remove(machine);
                Ending::StartAnew(machine)
            }
            Fault::StepDown => {
                let machine = &self.machines[self.machine(Whom::Leader) as usize];
                if let Some(up) = machine.up() {
                    machine.run(async move {
                        up.control
                            .hand_over_leadership(Duration::from_secs(1))
                            .await;
                    });
                }
                return;
            }
        };
        self.plan(self.now + lasts, Step::End(ending));
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Start(machine) | Ending::StartAnew(machine)
                if self.machines[machine as usize].is_running() =>
            {
                // It takes its time to stop, or has been started by another fault.
                let machine_is = &self.machines[machine as usize];
                if machine_is.is_stopping() {
                    self.plan(self.now + LOOK, Step::End(ending));
                }
            }
            Ending::Start(machine) => self.start(machine),
            Ending::StartAnew(machine) => {
                if self.machines[machine as usize].was_removed() {
                    self.machines[machine as usize].wipe_disk();
                }
                self.start(machine);
            }
            Ending::Resume(machine) => self.machines[machine as usize].resume(),
            Ending::Join(links) => {
                for (from, to) in links {
                    self.network.join(from, to);
                }
            }
            Ending::SpeedUp(links, by) => {
                for (from, to) in links {
                    self.network.speed_up(from, to, by);
                }
            }
            Ending::LoseNoMore(links, share) => {
                for (from, to) in links {
                    self.network.lose_no_more(from, to, share);
                }
            }
            Ending::Accept(share) => self.database.accept(share),
            Ending::Populate(machines, links) => {
                self.hints.unquieten(&machines);
                self.end(Ending::Join(links));
            }
            Ending::Disperse(machine, links) => {
                self.hints.uncrowd(machine);
                self.end(Ending::Join(links));
            }
        }
    }

    fn start(&mut self, number: u32) {
        let machine = &mut self.machines[number as usize];
        if !machine.is_running() {
            self.lives += 1;
            machine.start();
        }
    }

    /// Has the node of a machine taken out of the cluster.
    fn remove(&mut self, number: u32) {
        let Some(going) = self.machines[number as usize].up() else {
            return;
        };
        let Some(session) = going.states.borrow().session_up(going.node) else {
            return;
        };
        let leave = ClusterCommand::Leave {
            node: going.node,
            session,
            remove: true,
            at: 0,
        };
        self.machines[number as usize].note_removal();
        self.machines[number as usize].run(async move {
            // If nobody hears it, it stays.
            let _ = going.control.propose(leave).await;
        });
    }

    fn machine(&self, whom: Whom) -> u32 {
        match whom {
            Whom::Machine(number) => number,
            Whom::Leader => {
                let leads = |machine: &&Machine| {
                    let leader = machine.up().map(|up| {
                        let leadership = *up.leadership.borrow();
                        (up.node, leadership.leader)
                    });
                    matches!(leader, Some((node, Some(leader))) if node == leader)
                };
                let leader = self.machines.iter().position(|machine| leads(&machine));
                leader.unwrap_or(0) as u32
            }
        }
    }

    fn host(&self, whom: Whom) -> Host {
        Host::Node(self.machine(whom))
    }

    /// The links between a node and all others.
    fn to_nodes(&self, host: Host, ways: Ways) -> Vec<(Host, Host)> {
        let others = self.machines.iter().map(Machine::host);
        let others = others.filter(|other| *other != host);
        others.flat_map(|other| links(host, other, ways)).collect()
    }

    fn between_nodes(&self) -> Vec<(Host, Host)> {
        let hosts = self.machines.iter().map(Machine::host);
        hosts
            .flat_map(|host| self.to_nodes(host, Ways::Out))
            .collect()
    }

    fn cut(&self, links: &[(Host, Host)]) {
        for &(from, to) in links {
            self.network.cut(from, to);
        }
    }

    fn cut_off(&self, links: Vec<(Host, Host)>) -> Ending {
        self.cut(&links);
        Ending::Join(links)
    }

    /// Nothing passes between these machines and the others.
    fn desert(&self, machines: Vec<u32>) -> Ending {
        let others = self.machines.iter().map(Machine::host);
        let others = others.filter(|other| !machines.iter().any(|m| Host::Node(*m) == *other));
        let links: Vec<(Host, Host)> = others
            .flat_map(|other| machines.iter().map(move |machine| (*machine, other)))
            .flat_map(|(machine, other)| links(Host::Node(machine), other, Ways::Both))
            .collect();
        self.cut(&links);
        self.hints.quieten(&machines);
        Ending::Populate(machines, links)
    }

    fn slow_down(&self, links: Vec<(Host, Host)>, by: (u64, u64)) -> Ending {
        for &(from, to) in &links {
            self.network.slow_down(from, to, by);
        }
        Ending::SpeedUp(links, by)
    }

    fn lose(&self, links: Vec<(Host, Host)>, share: f64) -> Ending {
        for &(from, to) in &links {
            self.network.lose(from, to, share);
        }
        Ending::LoseNoMore(links, share)
    }
}

fn links(one: Host, other: Host, ways: Ways) -> Vec<(Host, Host)> {
    match ways {
        Ways::Both => vec![(one, other), (other, one)],
        Ways::In => vec![(other, one)],
        Ways::Out => vec![(one, other)],
    }
}

fn to_database(host: Host) -> Vec<(Host, Host)> {
    links(host, Host::Database, Ways::Both)
}
