use openraft::CommittedLeaderId;

use super::*;

const CANDIDATES: [NodeNr; 2] = [NodeNr(2), NodeNr(3)];

/// How far each node has the log of node 1.
fn replication(matched: [(u64, u64); 3]) -> BTreeMap<u64, Option<LogId>> {
    let log_id = |index| LogId::new(CommittedLeaderId::new(1, 1), index);
    let matched = matched.map(|(node, index)| (node, Some(log_id(index))));
    BTreeMap::from(matched)
}

fn chosen(node: u64, log_end: u64) -> Option<Successor> {
    Some(Successor {
        node: NodeNr(node),
        log_end: Some(log_end),
    })
}

#[test]
fn only_a_voter_with_all_of_the_log_is_asked() {
    let lacking = replication([(1, 19), (2, 17), (3, 18)]);
    assert_eq!(successor(&CANDIDATES, Some(19), Some(&lacking), None), None);
    let caught_up = replication([(1, 19), (2, 18), (3, 19)]);
    let asked = successor(&CANDIDATES, Some(19), Some(&caught_up), None);
    assert_eq!(asked, chosen(3, 19));
    // One that votes but may not lead, as it is leaving.
    let asked = successor(&[NodeNr(2)], Some(19), Some(&caught_up), None);
    assert_eq!(asked, None);
}

#[test]
fn who_was_asked_is_asked_again() {
    let all_have_it = replication([(1, 19), (2, 19), (3, 19)]);
    let again = successor(&CANDIDATES, Some(19), Some(&all_have_it), chosen(3, 19));
    assert_eq!(again, chosen(3, 19));
    // Also when it has raised the term, and this node leads no more.
    let again = successor(&CANDIDATES, Some(19), None, chosen(3, 19));
    assert_eq!(again, chosen(3, 19));
}

#[test]
fn who_lacks_what_came_afterwards_is_not_asked_again() {
    let grown = replication([(1, 20), (2, 20), (3, 19)]);
    let asked = successor(&CANDIDATES, Some(20), Some(&grown), chosen(3, 19));
    assert_eq!(asked, chosen(2, 20));
    assert_eq!(successor(&CANDIDATES, Some(20), None, chosen(3, 19)), None);
}
