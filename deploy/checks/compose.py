"""Runs compose.yaml as it stands, but for the images: Perennial's is the one that is tested,
and Postgres comes out of a Debian, because no registry is asked. A step of containers.py.
"""

import hashlib
import json
import subprocess
import time
import urllib.request

from docker_host import DEBIAN_IMAGE, FOLDER, IMAGE, ROOT, run, say, until
from perennial_client import Client

# Of the next Debian; Docker's own package of this one has no plugin for it.
PACKAGE = "http://deb.debian.org/debian/pool/main/d/docker-compose/docker-compose_2.26.1-4_amd64.deb"
PACKAGE_SHA256 = "47681197cb2b1ab88206b42a1a92fc75f50d9530a6322d03494a473eed0408ea"
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
NODES = {"node-1": 7400, "node-2": 7410, "node-3": 7420}
POSTGRES_SCRIPT = (
    "set -e; bin=$(echo /usr/lib/postgresql/*/bin); cd /tmp;"
    "$bin/initdb --auth=trust --username=perennial data >/dev/null;"
    "echo 'host all all all trust' >>data/pg_hba.conf;"
    "$bin/pg_ctl -D data -w -o '-k /tmp' start >/dev/null; $bin/createdb -h /tmp -U perennial perennial;"
    "$bin/pg_ctl -D data -w stop >/dev/null;"
    "exec $bin/postgres -D data -c listen_addresses='*' -c unix_socket_directories=/tmp"
)


def plugin(docker):
    """`docker compose`, unpacked if it is not there."""
    if docker("compose", "version", check=False, stderr=subprocess.DEVNULL).returncode == 0:
        return ("docker", "compose")
    deb = FOLDER / "docker-compose.deb"
    if not deb.exists():
        with urllib.request.urlopen(PACKAGE) as answer:
            content = answer.read()
        assert hashlib.sha256(content).hexdigest() == PACKAGE_SHA256, "another package than was expected"
        deb.write_bytes(content)
        run("dpkg", "-x", deb, FOLDER / "root")
    return (FOLDER / "root" / PLUGIN,)


def override():
    """The images, as a file that is read after compose.yaml."""
    services = {name: {"image": IMAGE} for name in ("migrate", *NODES)}
    services["postgres"] = {
        "image": DEBIAN_IMAGE,
        "user": "postgres",
        "command": ["bash", "-c", POSTGRES_SCRIPT.replace("$", "$$")],
    }
    path = FOLDER / "compose-images.json"
    path.write_text(json.dumps({"services": services}))
    return path


def try_compose(docker):
    """Up, a command through one node and its effect through another, and down in time."""
    command = [
        *plugin(docker), "--project-name", "perennial-test",
        "--file", ROOT / "deploy/compose.yaml", "--file", override(),
    ]

    def compose(*arguments):
        return run(*command, *arguments, env=docker.environment, cwd=ROOT, stderr=subprocess.STDOUT)

    try:
        began = time.monotonic()
        compose("up", "--detach", "--no-build", "--pull", "never", "--wait")
        took = time.monotonic() - began
        clients = [Client(f"127.0.0.1:{port}") for port in NODES.values()]
        assert clients[0].reply("counter", "tea", {"add": 5}) == {"value": 5}
        assert clients[2].reply("counter", "tea", "get") == {"value": 5}
        http = {port + 1 for port in NODES.values()}
        until("all are ready", lambda: all(is_ready(port) for port in http))
        began = time.monotonic()
        compose("stop")
        stopped = time.monotonic() - began
        ended = compose("ps", "--all", "--format", "json")
        states = [json.loads(line) for line in ended.splitlines()]
        codes = {each["Service"]: each["ExitCode"] for each in states}
        assert all(codes[name] == 0 for name in NODES), codes
        say(f"compose: up and healthy after {took:.1f} s, stopped in {stopped:.1f} s")
    finally:
        compose("down", "--volumes", "--timeout", "1")


def is_ready(port):
    """Whether the node with this HTTP port takes commands."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
