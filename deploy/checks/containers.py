"""A cluster of containers, from the image to its failures. Started by `deploy/test
--containers`; with names of steps it does those only, for when one of them is worked on:

    containers.py [image] [one-node] [rolling-restart] [cut] [stranger]

It needs root and a Debian machine, and takes nothing from registries of images: the base
is made by debootstrap, and where no Docker daemon answers, one is unpacked and started
with everything it writes below target/deploy/docker. Everything it made in Docker is
removed at the end, the images excepted.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

from containers_load import Load

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "target" / "deploy"
FOLDER = OUT / "docker"
NETWORK = "perennial-test"
# Made anew for other dependencies.
LOCKED = hashlib.sha256((ROOT / "Cargo.lock").read_bytes()).hexdigest()[:12]
BASE_IMAGE = f"perennial-test-base:{LOCKED}"
IMAGE = "perennial-test"
NODES = ["node-1", "node-2", "node-3"]
POSTGRES = "perennial-test-postgres"
JOURNAL = f"postgres://perennial:perennial@{POSTGRES}/perennial"
# Longer than node.drain_timeout.
STOP_WITHIN_S = 40
# A loaded machine needs long for what takes seconds elsewhere.
PATIENCE_S = 180


def run(*command, check=True, **options):
    """Runs a command and returns what it printed."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=False, **options)
    if check and done.returncode != 0:
        sys.exit(f"failed with {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout.strip() if check else done


def until(what, condition, within_s=PATIENCE_S):
    """Waits for something that has to happen."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"not within {within_s} s: {what}")
        time.sleep(0.2)
    return value


def say(text):
    print(text, flush=True)


# ---- Docker and the base


class Docker:
    """The daemon that answers already, or one of our own."""

    def __init__(self):
        # The builder that finds Containerfile.dockerignore.
        self.environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        self.daemon = None
        if shutil.which("docker") and self._answers():
            return
        if os.geteuid() != 0:
            sys.exit("no Docker daemon answers, and starting one needs root")
        unpack("docker.io", "containerd", "runc")
        self.environment["PATH"] = f"{FOLDER}/root/usr/bin:{FOLDER}/root/usr/sbin:{os.environ['PATH']}"
        self.environment["DOCKER_HOST"] = f"unix://{FOLDER}/docker.sock"
        with open(FOLDER / "dockerd.log", "w", encoding="utf-8") as log:
            # Containers talk to each other and to this machine, and to nobody else, so no
            # packet filter has to be touched.
            command = [
                "dockerd", "--iptables=false", "--ip6tables=false", "--ip-masq=false",
                "--bridge=none", f"--data-root={FOLDER}/data", f"--exec-root={FOLDER}/exec",
                f"--pidfile={FOLDER}/docker.pid", f"--host={self.environment['DOCKER_HOST']}",
            ]
            self.daemon = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        until(f"dockerd answers; see {FOLDER}/dockerd.log", self._answers)

    def __call__(self, *arguments, check=True, **options):
        return run("docker", *arguments, check=check, env=self.environment, **options)

    def _answers(self):
        asked = ["docker", "version", "--format", "{{.Server.Version}}"]
        done = subprocess.run(asked, env=self.environment, capture_output=True, check=False)
        return done.returncode == 0

    def stop(self):
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait()


def unpack(*packages):
    """Unpacks Debian packages below FOLDER/root. Installing docker.io would start it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if not list(FOLDER.glob(f"{package}_*.deb")):
            run("apt-get", "download", "-qq", package, cwd=FOLDER)
        run("dpkg", "-x", next(FOLDER.glob(f"{package}_*.deb")), FOLDER / "root")


def make_base(docker):
    """A Debian with what builds the image, and with the Postgres of the test."""
    if docker("images", "--quiet", BASE_IMAGE):
        return
    say("making the base: debootstrap, Rust, the sources of all dependencies")
    unpack("debootstrap")
    root = FOLDER / "base"
    run("rm", "-rf", root)
    include = "gcc,libc6-dev,binutils,ca-certificates,postgresql"
    environment = {**os.environ, "DEBOOTSTRAP_DIR": str(FOLDER / "root/usr/share/debootstrap")}
    run(
        FOLDER / "root/usr/sbin/debootstrap", "--variant=minbase", f"--include={include}",
        "bookworm", root, "http://deb.debian.org/debian", env=environment,
    )
    toolchain = run("rustc", "--print", "sysroot", cwd=ROOT)
    without_manual = shutil.ignore_patterns("doc")
    shutil.copytree(toolchain, root / "usr/local", symlinks=True, dirs_exist_ok=True, ignore=without_manual)
    # With the sources there, the build works without the network.
    cargo_home = root / "usr/local/cargo"
    run("cargo", "fetch", "--locked", cwd=ROOT, env={**os.environ, "CARGO_HOME": str(cargo_home)})
    tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
    changes = ["ENV CARGO_HOME=/usr/local/cargo", "ENV CARGO_NET_OFFLINE=true"]
    options = [part for change in changes for part in ("--change", change)]
    docker("import", *options, "-", BASE_IMAGE, stdin=tar.stdout)
    if tar.wait() != 0:
        sys.exit("tar failed")
    run("rm", "-rf", root)


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
        "--user=postgres", "--tmpfs=/tmp:mode=1777", BASE_IMAGE, "bash", "-c", script,
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
    docker("network", "rm", NETWORK, check=False, stderr=subprocess.DEVNULL)


# ---- Certificates


def authority(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-subj", f"/CN={name}", "-keyout", folder / "ca.key", "-out", folder / "ca.crt",
        stderr=subprocess.DEVNULL,
    )


def certificate(folder, authority_folder, name):
    """A certificate for `name` in `folder`, with the authority that the others are of."""
    folder.mkdir(parents=True, exist_ok=True)
    run(
        "openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", f"/CN={name}", "-keyout", folder / "tls.key", "-out", folder / "tls.csr",
        stderr=subprocess.DEVNULL,
    )
    (folder / "extensions").write_text(f"subjectAltName=DNS:{name}\nextendedKeyUsage=serverAuth,clientAuth\n")
    run(
        "openssl", "x509", "-req", "-days", "2", "-in", folder / "tls.csr", "-CA", authority_folder / "ca.crt",
        "-CAkey", authority_folder / "ca.key", "-CAcreateserial", "-extfile", folder / "extensions",
        "-out", folder / "tls.crt", stderr=subprocess.DEVNULL,
    )
    shutil.copy(authority_folder / "ca.crt", folder / "ca.crt")
    # The user of the image reads them.
    for file in folder.iterdir():
        file.chmod(0o644)


def peer_tls(folder):
    return (
        f"--volume={folder}:/run/secrets/tls/peer:ro",
        "--env=PERENNIAL_NODE__PEER_TLS__CERTIFICATE=/run/secrets/tls/peer/tls.crt",
        "--env=PERENNIAL_NODE__PEER_TLS__KEY=/run/secrets/tls/peer/tls.key",
        "--env=PERENNIAL_NODE__PEER_TLS__CA=/run/secrets/tls/peer/ca.crt",
    )


# ---- Steps


def build_image(docker):
    make_base(docker)
    revision = run("git", "rev-parse", "HEAD", cwd=ROOT)
    docker(
        "build", "--network=none", "--file=deploy/Containerfile", f"--build-arg=BUILD_IMAGE={BASE_IMAGE}",
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
    """A node under load is stopped: everything is answered, and there afterwards."""
    start_node(docker, NODES[0])
    until("the node is healthy", lambda: is_healthy(docker, NODES[0]) and is_ready(docker, NODES[0]))
    load = Load([address(docker, NODES[0])])
    until("commands are answered", lambda: load.answered > 1000)
    load.stop()
    began = time.monotonic()
    docker("stop", NODES[0])
    took = time.monotonic() - began
    assert exit_code(docker, NODES[0]) == 0, log(docker, NODES[0])
    docker("start", NODES[0])
    until("the node is back", lambda: is_ready(docker, NODES[0]))
    load.check_sums([address(docker, NODES[0])])
    say(f"one node: {load.answered} commands answered, stopped in {took:.1f} s, sums are right: {load.failures()}")
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
    until("every counter is answered again", lambda: load.all_answered_since(began))
    say(f"cut: every counter answered {time.monotonic() - began:.1f} s after the cut")
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


STEPS = {
    "image": build_image,
    "one-node": one_node,
    "rolling-restart": rolling_restart,
    "cut": cut,
    "stranger": stranger,
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
            if name != "image":
                docker("network", "create", NETWORK)
                start_database(docker)
            STEPS[name](docker)
    finally:
        clean(docker)
        docker.stop()


main(sys.argv[1:])
