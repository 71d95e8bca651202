"""A cluster of containers, from the image to its failures. Started by `deploy/test
--containers`; with names of steps it does those only, for when one of them is worked on:

    containers.py [image] [one-node] [rolling-restart] [cut] [stranger] [compose] [runbook]

It takes nothing from registries of images: see docker_host.py. Everything it made in
Docker is removed at the end, the images excepted.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

import runbook
import runbook_sections
from certificates import authority, certificate
from compose import try_compose
from containers_load import Load
from docker_host import (
    BUILD_IMAGE, DEBIAN_IMAGE, FOLDER, IMAGE, ROOT, Docker, make_build_image, make_debian, run, say, until,
)

NETWORK = "perennial-test"
NODES = ["node-1", "node-2", "node-3"]
POSTGRES = "perennial-test-postgres"
JOURNAL = f"postgres://perennial:perennial@{POSTGRES}/perennial"
# Longer than node.drain_timeout.
STOP_WITHIN_S = 40


# ---- Containers


def start(docker, name, *arguments, options=(), image=IMAGE):
    """A container of ours, as restricted as in Kubernetes."""
    docker(
        "run", "--detach", "--name", name, "--hostname", name, "--network", NETWORK,
        "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
        f"--stop-timeout={STOP_WITHIN_S}", *options, image, *arguments,
    )


def start_node(docker, name, options=(), flags=()):
    """Clients connect to it without encryption."""
    start(
        docker, name, "serve", "--insecure", "--data-dir=/var/lib/perennial",
        "--listen=0.0.0.0:7400", "--http=0.0.0.0:7401", *flags,
        options=(f"--env=PERENNIAL_PERSISTENCE__JOURNAL__URL={JOURNAL}", f"--volume={name}:/var/lib/perennial", *options),
    )


def start_peer(docker, name, tls):
    """A node of a cluster, with the certificate in the folder `tls`."""
    flags = ["--peer-listen=0.0.0.0:7402", f"--advertise={name}", f"--advertise-peer={name}"]
    start_node(docker, name, peer_tls(tls), flags)


def address(docker, name):
    found = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return docker("inspect", "--format", found, name)


def is_ready(docker, name):
    try:
        with urllib.request.urlopen(f"http://{address(docker, name)}:7401/readyz", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def is_healthy(docker, name):
    """What the image's own health check says."""
    return docker("inspect", "--format", "{{.State.Health.Status}}", name) == "healthy"


def exit_code(docker, name):
    return int(docker("inspect", "--format", "{{.State.ExitCode}}", name))


def log(docker, name):
    done = docker("logs", name, check=False, stderr=subprocess.STDOUT)
    return done.stdout


def start_database(docker):
    script = (
        "set -e; bin=$(echo /usr/lib/postgresql/*/bin);"
        "$bin/initdb --auth=trust --username=perennial /tmp/data >/dev/null;"
        "echo 'host all all all trust' >>/tmp/data/pg_hba.conf;"
        "exec $bin/postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp"
    )
    docker(
        "run", "--detach", "--name", POSTGRES, "--hostname", POSTGRES, "--network", NETWORK,
        "--user=postgres", "--tmpfs=/tmp:mode=1777", DEBIAN_IMAGE, "bash", "-c", script,
    )

    def made():
        command = ["exec", POSTGRES, "bash", "-c", "psql -h /tmp -U perennial postgres -c 'CREATE DATABASE perennial'"]
        return docker(*command, check=False, stderr=subprocess.DEVNULL).returncode == 0

    until("Postgres answers", made)
    start(docker, "migrate", "journal", "migrate", options=[f"--env=PERENNIAL_PERSISTENCE__JOURNAL__URL={JOURNAL}"])
    code = docker("wait", "migrate")
    if code != "0":
        sys.exit(f"the migration failed: {log(docker, 'migrate')}")


def clean(docker):
    for name in [*NODES, "stranger", "migrate", POSTGRES]:
        docker("rm", "--force", "--volumes", name, check=False, stderr=subprocess.DEVNULL)
    for name in [*NODES, "stranger"]:
        docker("volume", "rm", "--force", name, check=False, stderr=subprocess.DEVNULL)
    runbook.clean(docker)
    docker("network", "rm", NETWORK, check=False, stderr=subprocess.DEVNULL)


# ---- Steps


def peer_tls(folder):
    return (
        f"--volume={folder}:/run/secrets/tls/peer:ro",
        "--env=PERENNIAL_NODE__PEER_TLS__CERTIFICATE=/run/secrets/tls/peer/tls.crt",
        "--env=PERENNIAL_NODE__PEER_TLS__KEY=/run/secrets/tls/peer/tls.key",
        "--env=PERENNIAL_NODE__PEER_TLS__CA=/run/secrets/tls/peer/ca.crt",
    )


def build_image(docker):
    make_build_image(docker)
    revision = run("git", "rev-parse", "HEAD", cwd=ROOT)
    docker(
        "build", "--network=none", "--file=deploy/Containerfile", f"--build-arg=BUILD_IMAGE={BUILD_IMAGE}",
        f"--build-arg=REVISION={revision}", f"--tag={IMAGE}", ".",
        cwd=ROOT,
    )
    described = json.loads(docker("inspect", IMAGE))[0]
    config = described["Config"]
    assert config["User"] == "65532:65532", config["User"]
    assert config["StopSignal"] == "SIGTERM", config["StopSignal"]
    assert config["Labels"]["org.opencontainers.image.revision"] == revision, config["Labels"]
    shell = docker("run", "--rm", "--entrypoint=/bin/sh", IMAGE, "-c", "true", check=False, stderr=subprocess.DEVNULL)
    assert shell.returncode == 127, "there is a shell in the image"
    say(f"{docker('run', '--rm', '--network=none', IMAGE, '--version')}: {described['Size'] / 1e6:.1f} MB")


def one_node(docker):
    """A node is restarted under load: it ends in time, and nothing is lost or twice."""
    node = NODES[0]
    start_node(docker, node)
    until("the node is healthy", lambda: is_healthy(docker, node) and is_ready(docker, node))
    # Nobody else can answer meanwhile: clients come back until it does.
    load = Load([address(docker, node)], patient=True)
    until("commands are answered", lambda: load.answered > 1000)
    began = time.monotonic()
    docker("stop", node)
    took = time.monotonic() - began
    assert exit_code(docker, node) == 0, log(docker, node)
    assert took < STOP_WITHIN_S, f"stopped after {took:.1f} s"
    docker("start", node)
    until("the node is back", lambda: is_ready(docker, node))
    load.moved(0, address(docker, node))
    before = load.answered
    until("commands are answered again", lambda: load.answered > before + 1000)
    load.stop()
    load.check_sums([address(docker, node)])
    say(f"one node: {load.answered} commands answered, {load.repeated} sent again, stopped in {took:.1f} s, sums are right")
    assert not load.failures(), load.failures()


def start_cluster(docker):
    authority(FOLDER / "tls", "perennial-peers")
    for name in NODES:
        certificate(FOLDER / "tls" / name, FOLDER / "tls", name)
        start_peer(docker, name, FOLDER / "tls" / name)
    until("three nodes are ready", lambda: all(is_ready(docker, name) for name in NODES))
    until("three members are up", lambda: members_up(docker, NODES[0]) == 3)


def members_up(docker, name):
    done = docker("exec", name, "perennial", "cluster", "status", "--output", "json", check=False, stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        return 0
    return sum(member["status"] == "up" for member in json.loads(done.stdout)["members"])


def rolling_restart(docker):
    """Each node is restarted under load: no command fails (I-9), none is lost (I-5)."""
    start_cluster(docker)
    load = Load([address(docker, name) for name in NODES])
    for name in reversed(NODES):
        before = load.answered
        until(f"commands are answered before {name} is restarted", lambda: load.answered > before + 500)
        docker("stop", name)
        assert exit_code(docker, name) == 0, log(docker, name)
        docker("start", name)
        until(f"{name} is back", lambda: is_ready(docker, name) and is_healthy(docker, name))
        load.moved(NODES.index(name), address(docker, name))
        until("three members are up", lambda: members_up(docker, NODES[0]) == 3)
    load.stop()
    load.check_sums([address(docker, name) for name in NODES])
    say(f"rolling restart: {load.answered} commands, {load.repeated} repeated elsewhere, slowest {load.slowest_s:.2f} s")
    assert not load.failures(), load.failures()


def cut(docker):
    """A node is cut from the network: the others take over; nothing is lost or twice."""
    start_cluster(docker)
    load = Load([address(docker, name) for name in NODES], patient=True)
    until("commands are answered", lambda: load.answered > 500)
    docker("network", "disconnect", NETWORK, NODES[1])
    began = time.monotonic()
    load.ask_all(address(docker, NODES[0]))
    say(f"cut: every counter answers another node {time.monotonic() - began:.1f} s after the cut")
    docker("network", "connect", NETWORK, NODES[1])
    load.moved(1, address(docker, NODES[1]))
    until("the node is back", lambda: is_ready(docker, NODES[1]) and members_up(docker, NODES[0]) == 3)
    load.stop()
    load.check_sums([address(docker, name) for name in NODES])
    say(f"cut: {load.answered} commands answered, {load.repeated} sent again, sums are right")
    assert not load.failures(), load.failures()


def stranger(docker):
    """A node without the peers' authority reaches the database and no peer."""
    start_cluster(docker)
    authority(FOLDER / "tls-stranger", "somebody-else")
    certificate(FOLDER / "tls-stranger" / "stranger", FOLDER / "tls-stranger", "stranger")
    start_peer(docker, "stranger", FOLDER / "tls-stranger" / "stranger")
    until("the stranger says why it is refused", lambda: "certificate" in log(docker, "stranger").lower())
    assert not is_ready(docker, "stranger"), "the stranger is ready"
    assert members_up(docker, NODES[0]) == 3, "the stranger is a member"
    load = Load([address(docker, name) for name in NODES])
    until("the others do not mind", lambda: load.answered > 500)
    load.stop()
    assert not load.failures(), load.failures()
    say("stranger: refused, the others do not mind")


def try_runbook(docker):
    """Every command of RUNBOOK.md that can be tried."""
    make_debian(docker)
    trial = runbook.Trial(docker)
    try:
        trial.make_images()
        runbook_sections.try_all(trial)
    finally:
        trial.stop()


STEPS = {
    "image": build_image,
    "one-node": one_node,
    "rolling-restart": rolling_restart,
    "cut": cut,
    "stranger": stranger,
    "compose": try_compose,
    "runbook": try_runbook,
}


def main(names):
    unknown = set(names) - set(STEPS)
    if unknown:
        sys.exit(f"unknown steps {unknown}: choose from {list(STEPS)}")
    docker = Docker()
    try:
        for name in names or STEPS:
            say(f"-- {name}")
            clean(docker)
            if name not in ("image", "compose"):
                docker("network", "create", NETWORK)
            if name not in ("image", "compose", "runbook"):
                make_debian(docker)
                start_database(docker)
            STEPS[name](docker)
    finally:
        clean(docker)
        docker.stop()


main(sys.argv[1:])
