"""What the runbook's reader does, section by section: see runbook.py. The order is that of
the runbook, except that the installation comes first."""

import re
import time

from docker_host import ROOT, say, until
from runbook import JOURNAL, POSTGRES_POD

# The runbook's entity is a shop's; the image has these.
CART = ("cart", "counter")
OVERLAY = "deploy/kubernetes/overlays/prod/kustomization.yaml"


def try_all(trial):
    """Every section, in order."""
    trial.start_postgres()
    for section in (
        install, look_around, upgrade, scale, back_up_and_restore, rotate_certificates, lost_quorum, lost_disk,
        postgres_switchover, stuck_handoff, poisoned_entity, verify,
    ):
        section(trial)
    assert not trial.sections, f"not tried: {list(trial.sections)}"


def definitions(trial):
    """The shell functions at the runbook's beginning."""
    commands, _ = trial.sections.pop(None)
    for command in commands:
        trial.shell.run(command)


def install(trial):
    definitions(trial)
    with trial.section("Install", loaded=False):
        trial.run("kubectl create namespace")
        trial.run("(umask 077 && cat >url", stdin=JOURNAL)
        trial.run("kube create secret", "created")
        trial.run("kubectl apply", "statefulset/perennial created")
        trial.run("kube wait", "condition met")
        trial.run("kube rollout status", "complete")
        trial.run("pn cluster status", "leads", r"perennial-2\..* up ")
        # Of the image: `perennial health`, over TLS.
        until("the containers are healthy", trial.healthy)


def look_around(trial):
    with trial.section("Look around"):
        until("three nodes are ready", lambda: trial.ready() == 3)
        trial.run("kube get pods", r"perennial-0 +1/1 +Running", r"perennial-2 +1/1 +Running")
        trial.run("pn cluster status", "leads")
        trial.follow("pn cluster status --watch", "leads")
        trial.run("pn cluster describe", "state +", "shard +", fill=[CART])
        trial.run("kube logs", "ready")
        trial.run("kube port-forward")
        until("the port is forwarded", lambda: trial.shell.run("curl -s localhost:7401/livez")[1] == 0)
        trial.run("curl", "^ready", "perennial_commands_total")
        trial.run("kill")


def change_image(trial, tag):
    """Lets the overlay name another version."""
    images_entry = f"\nimages:\n  - name: perennial\n    newTag: {tag}\n"
    (trial.repository / OVERLAY).write_text((ROOT / OVERLAY).read_text() + images_entry)


def change_version(trial, tag):
    """The commands of an upgrade, to a version of the image."""
    change_image(trial, tag)
    for command in trial.upgrade_commands:
        text, code = trial.shell.run(command)
        assert code == 0, text


def upgrade(trial):
    with trial.section("Upgrade"):
        until("three nodes are ready", lambda: trial.ready() == 3)
        trial.run("kube get pods", r"perennial-2 +1/1")
        trial.upgrade_commands = trial.commands[:2]
        trial.run("kube delete job")
        change_image(trial, "0.2.0")
        trial.run("kubectl apply", "statefulset/perennial configured", "job/perennial-migrate created")
        trial.run("kube wait", "condition met")
        trial.run("kube rollout status", "complete")
        trial.run("pn cluster status", "leads")
        assert images(trial) == ["next"] * 3, images(trial)
        # On one node first.
        trial.run("kube patch", "patched")
        change_version(trial, "0.1.0")
        until("the other version is on one node", lambda: images(trial)[2:] == ["latest"] and trial.ready() == 3)
        time.sleep(15)
        assert images(trial) == ["next", "next", "latest"], images(trial)
        trial.run("kube patch", "patched")
        trial.run("kube rollout status", "complete")
        assert images(trial) == ["latest"] * 3, images(trial)
        # A version that does not start.
        change_version(trial, "broken")
        until("the new version does not become ready", lambda: images(trial)[2:] == ["broken"])
        trial.run("kube get pods", r"perennial-2 +0/1")
        trial.run("kube logs perennial-2")
        trial.run("kube logs job")
        trial.run("kube rollout undo", "rolled back")
        trial.run("kube rollout status", "complete")
        assert images(trial) == ["latest"] * 3, images(trial)
        change_image(trial, "0.1.0")
        trial.run("kube rollout restart", "restarted")
        trial.run("kube rollout status", "complete")


def images(trial):
    """The version of each node."""
    return [each["Config"]["Image"].partition(":")[2] or "latest" for each in trial.cluster.pods("node").values()]


def scale(trial):
    with trial.section("Scale"):
        trial.run("kube scale", "scaled")
        trial.run("kube rollout status", "complete")
        until("the new nodes have shards", lambda: all(each["shards_owned"] > 0 for each in trial.members()))
        trial.run("pn cluster status", r"perennial-4\.")
        trial.run("pn cluster status")
        trial.run("kube scale", "scaled")
        until("two nodes are down", lambda: sum(each["status"] == "up" for each in trial.members()) == 3)
        # Now with a voter among those that go: another one is taken out for it.
        trial.shell.run("kube scale statefulset perennial --replicas=5; kube rollout status statefulset/perennial")
        trial.until_up(5)
        voter = make_a_voter_go(trial)
        trial.run("pn cluster drain", "no member any more", fill=[("NODE", voter)])
        trial.run("pn cluster status")
        # Its pod is there still, and may have started it again by now, without a vote.
        voters = [each["node_id"] for each in trial.members() if each["voter"]]
        assert len(voters) == 3 and voter not in voters, voters
        trial.run("kube scale", "scaled")
        until("three nodes are up", lambda: sum(each["status"] == "up" for each in trial.members()) == 3)


def make_a_voter_go(trial):
    """Takes voters out until one of the pods that are to go votes; its number."""
    for pod in ("perennial-2", "perennial-1"):
        going = [each for each in (trial.member("perennial-3"), trial.member("perennial-4")) if each and each["voter"]]
        if going:
            return going[0]["node_id"]
        node = trial.member(pod)["node_id"]
        text, code = trial.shell.run(f"pn cluster drain {node} --remove --timeout=2m")
        assert code == 0, text
        until("another one votes", lambda: sum(each["voter"] for each in trial.members()) == 3)
    going = [each for each in (trial.member("perennial-3"), trial.member("perennial-4")) if each["voter"]]
    assert going, trial.members()
    return going[0]["node_id"]


def back_up_and_restore(trial):
    with trial.section("Back up and restore"):
        saved = trial.finish_load()
        trial.run("kube exec")
        # What is acknowledged after the backup is taken back by the restore.
        trial.begin_load()
        lost = trial.finish_load()
        trial.run("kube scale", "scaled")
        trial.run("kube wait")
        trial.run("kube get pods", "No resources found")
        trial.run("kube exec")
        trial.run("kube delete pvc", "data-perennial-0")
        trial.run("kube delete job", "deleted")
        trial.run("kubectl --namespace perennial create", "job/perennial-reform-")
        trial.run("kube wait", "condition met")
        trial.run("kube logs", "generation 2")
        trial.run("kubectl apply")
        trial.run("kube rollout status", "complete")
        trial.run("pn journal verify", "0 findings")
        trial.loads.remove(lost)
        trial.begin_load()
        saved.check_sums(list(trial.addresses().values()))
        lost.check_sums(list(trial.addresses().values()), taken_back=True)


def rotate_certificates(trial):
    with trial.section("Rotate certificates"):
        trial.run("kube port-forward")
        before = until("the port is forwarded", trial.shown_certificate)
        repeated = trial.load.repeated
        for name in ("perennial-server", "perennial-peer"):
            trial.cluster.renew(name)
        until("a new certificate is shown", lambda: trial.shown_certificate() not in (None, before))
        trial.run("echo | openssl", "notAfter")
        trial.run("kill")
        # By every node, those for clients and those for peers.
        uses = [f"pod/perennial-{nr}/.* used for new .*/{kind}/tls.crt" for nr in range(3) for kind in ("server", "peer")]
        until("all nodes use them", lambda: trial.would_print(*uses))
        trial.run("kube logs", *uses)
        answered = trial.load.answered
        until("commands are answered", lambda: trial.load.answered > answered + 1000)
        assert trial.load.repeated == repeated, "connections were closed"
        trial.run("(umask 077 && cat >url", stdin=JOURNAL)
        trial.run("kube create secret", "perennial-journal")
        trial.run("rm url")
        trial.run("kube rollout restart")
        trial.run("kube rollout status", "complete")


def lost_quorum(trial):
    with trial.section("Lost quorum"):
        # Disks of most voters are lost for good.
        for pod in ("perennial-1", "perennial-2"):
            trial.lose(pod)
        until("commands are answered no more", lambda: trial.is_stuck())
        trial.run("kube get pods")
        trial.run("kube get pvc", "data-perennial-1")
        trial.run("kube scale", "scaled")
        trial.run("kube wait")
        trial.run("kubectl --namespace perennial create")
        trial.run("kube wait", "condition met")
        trial.run("kube logs", "begins with the next node")
        trial.run("kube scale", "scaled")
        trial.run("kube rollout status", "complete")
        trial.run("pn cluster status", "leads")
        trial.run("pn journal verify", "0 findings")


def lost_disk(trial):
    with trial.section("Lost disk"):
        old = trial.member("perennial-1")["node_id"]
        trial.run("kube delete pvc", "data-perennial-1")
        trial.run("kube delete pod", "deleted")
        trial.run("kube rollout status", "complete")
        trial.run("pn cluster status", f"(?m)^ *{old} .* down ")
        trial.run("pn cluster drain", "no member any more", fill=[("NODE", old)])
        assert trial.member("perennial-1")["node_id"] != old, "it is the same node"


def postgres_switchover(trial):
    with trial.section("Postgres switchover"):
        before = trial.load.answered
        trial.docker("restart", trial.cluster.container(POSTGRES_POD))
        assert trial.ready() == 3, "an outage of the journal made nodes unready"
        until("commands are answered", lambda: trial.load.answered > before + 200)
        trial.run("pod=perennial-1 pn health", "serving")
        trial.run("kube logs")
        trial.run("kube delete pod")
        until("three nodes are ready", lambda: trial.ready() == 3)
        trial.hold_transaction("postgres", "SELECT pg_current_xact_id()")
        say("      a minute with an open transaction")
        time.sleep(61)
        text = trial.run("kube exec", "pg_sleep|active|idle in transaction")
        pid = [line.split("|")[0].strip() for line in text.splitlines() if "psql" in line][0]
        trial.run("kube exec", "0 rows")
        trial.run("kube exec", " t", fill=[("PID", pid)])


def stuck_handoff(trial):
    with trial.section("Stuck handoff"):
        # A node ends, and somebody holds what its fence needs.
        trial.hold_transaction("perennial", "SELECT FROM perennial.writer_sessions FOR SHARE")
        blocker = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%FOR SHARE; SELECT pg_sleep%' AND pid <> pg_backend_pid()"
        pid = until("the transaction is open", lambda: trial.postgres(blocker))
        stopped = trial.cluster.container("perennial-2")
        trial.docker("kill", stopped)
        blocked = f"SELECT count(*) FROM pg_stat_activity WHERE {pid} = ANY (pg_blocking_pids(pid))"
        until("a fence is blocked", lambda: trial.postgres(blocked) != "0")
        trial.run("pn cluster status", "last owner can write no more")
        trial.run("pn cluster shards", "moves to", "fencing")
        trial.run("kube logs", "not of the fenced session")
        until("the fence is blocked", lambda: trial.would_print(rf"perennial registry .*\{{{pid}\}}"))
        trial.run("kube exec", rf"perennial registry .*\{{{pid}\}}")
        trial.run("kube exec", " t", fill=[("PID", pid)])
        until("all shards are served", lambda: "fencing" not in trial.shell.run("pn cluster shards")[0])
        trial.docker("start", stopped)
        until("three nodes are ready", lambda: trial.ready() == 3)
        trial.run("kube delete pod", "deleted")
        until("three nodes are ready", lambda: trial.ready() == 3)


def poisoned_entity(trial):
    with trial.section("Poisoned entity"):
        for _ in range(3):
            text, code = trial.shell.run("pn send counter 4711 '{\"add\": 5}'")
            assert code == 0, text
        # The last of its events is one that nobody understands.
        trial.shell.run("pn cluster passivate counter 4711")
        where = "persistence_id = 'counter|4711' AND sequence_nr = 3"
        payload = trial.postgres(f"SELECT encode(payload, 'hex') FROM perennial.events WHERE {where}")
        trial.postgres(f"UPDATE perennial.events SET payload = '\\x7b7d' WHERE {where}")
        text, code = trial.shell.run("pn send counter 4711 '\"get\"'")
        assert code == 1 and "RECOVERY_FAILED" in text, text
        # Clients go on asking, or it would be passive after its first back-off.
        with trial.visited("counter", "4711"):
            trial.run("kube logs", "4711", fill=[CART])
            until("it backs off", lambda: "backing_off" in trial.shell.run("pn cluster describe counter 4711")[0])
            trial.run("pn cluster describe", "state", fill=[CART])
            trial.run("pn events", fill=[CART])
            trial.run("pn state", "10", fill=[CART, ("118", "2")])
        trial.postgres(f"UPDATE perennial.events SET payload = '\\x{payload}' WHERE {where}")
        trial.run("pn cluster passivate", "out of memory", fill=[CART])
        trial.run("pn state", "15", fill=[CART])
        trial.run("pn events", fill=[("cart 4711", "counter 4711")])
        trial.run("pn delete", fill=[CART])
        text, code = trial.shell.run("pn send counter 4711 '\"get\"'")
        assert code == 0 and "0" in text, text


def verify(trial):
    with trial.section("Verify after an incident"):
        trial.run("pn journal verify", "0 findings", "exit code 0")
        # A gap, which it has to find.
        for _ in range(3):
            trial.shell.run("pn send counter gap '{\"add\": 5}'")
        trial.postgres("DELETE FROM perennial.events WHERE persistence_id = 'counter|gap' AND sequence_nr = 2")
        text, code = trial.shell.run("pn journal verify --config /etc/perennial/perennial.toml")
        assert code == 1 and "counter|gap" in text, text
        trial.printed += text
        trial.postgres("DELETE FROM perennial.events WHERE persistence_id = 'counter|gap'")
        trial.run("kube exec", "perennial-0")
        trial.run("kube exec", "perennial")
