"""Tries RUNBOOK.md: runs its commands, as they stand there, on a cluster of containers that
serves meanwhile. A step of containers.py.

Commands are read from the runbook section by section and given to one bash, where `kubectl`
is the stand-in of kubectl.py. What is here for each section is which command comes next,
what the reader fills in, what happens around it (a lost disk has to be lost first) and what
it has to print. After each section every counter is what was acknowledged, of the loads of
all sections so far. A command of the runbook that is neither run nor named in UNTRIED
fails, and so does a line of printed output in the runbook that no command of its section
printed, numbers, times and ids aside.

What was printed is in target/deploy/runbook/transcript.txt.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import grpc
from certificates import certificate
from containers_load import Load
from docker_host import DEBIAN_IMAGE, IMAGE, OUT, ROOT, say, until
from perennial_client import Client
from stand_in import StandIn

FOLDER = OUT / "runbook"
NETWORK = "perennial-test"
NAMESPACE = "perennial"
POSTGRES_POD = "perennial-postgres-1"
JOURNAL = f"postgres://perennial:perennial@{POSTGRES_POD}/perennial"
# Debug builds and busy machines are slow.
COMMAND_WITHIN_S = 900

# Commands that cannot be tried here, by how they begin, and why.
UNTRIED = {
    "docker build": "tried by the step `image`, of the same file",
    "docker push": "there is no registry",
    "cmctl": "there is no cert-manager; the certificates are issued anew by openssl instead",
    "kube get certificates": "there is no cert-manager",
    "kubectl cnpg": "there is no CloudNativePG; the one Postgres is restarted instead",
    "kubectl get --raw": "there is no Kubernetes that signs tokens; the component auth is not in use",
    "kube create configmap perennial-jwks": "the component auth is not in use",
    "kube logs perennial-0 --since=5m | grep 'keys of tokens'": "the component auth is not in use",
    "kubectl taint": "there are no machines that Kubernetes knows",
    "kube top": "the figures are Kubernetes' own",
    "kube describe": "the text is Kubernetes' own",
    "kube get events": "the text is Kubernetes' own",
}


def sections():
    """The runbook's commands and printed lines, by section."""
    found, title, kind, block = {}, None, None, []
    for line in (ROOT / "deploy/RUNBOOK.md").read_text().splitlines():
        text = line.strip()
        if kind is None and text.startswith("## "):
            title = text[3:]
        elif kind is None and text.startswith("```"):
            kind, block, indent = text[3:], [], len(line) - len(text)
        elif text == "```":
            commands, printed = found.setdefault(title, ([], []))
            if kind == "sh":
                commands.extend(split(block))
            elif kind == "text":
                printed.extend(block)
            kind = None
        elif kind is not None:
            block.append(line[indent:])
    return found


def split(block):
    """A block's commands, each with all its lines."""
    commands, lines = [], []
    for line in block:
        lines.append(line)
        command = "\n".join(lines)
        if not command.endswith("\\") and subprocess.run(["bash", "-n"], input=command, text=True, check=False,
                                                         stderr=subprocess.DEVNULL).returncode == 0:
            commands.append(command)
            lines = []
    assert not lines, f"a block ends in the middle of a command: {lines}"
    return commands


class Shell:
    """The one bash that all commands are given to."""

    def __init__(self, environment, folder):
        self.transcript = open(FOLDER / "transcript.txt", "w", encoding="utf-8")
        self.input = FOLDER / "input"
        self.process = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment, cwd=folder, start_new_session=True,
        )
        # Its background jobs can be ended as a whole.
        self.run("set -m")

    def run(self, command, stdin=""):
        """Runs a command; what it printed, and its exit code."""
        self.input.write_text(stdin)
        self.process.stdin.write(f"{{ {command}\n}} <{self.input} 2>&1; printf '\\n@@ended %d\\n' $?\n")
        self.process.stdin.flush()
        killer = threading.Timer(COMMAND_WITHIN_S, self.process.kill)
        killer.start()
        printed = []
        for line in self.process.stdout:
            if line.startswith("@@ended"):
                break
            printed.append(line)
        else:
            sys.exit(f"did not end within {COMMAND_WITHIN_S} s: {command}\n{''.join(printed)}")
        killer.cancel()
        text = "".join(printed).rstrip()
        self.transcript.write(f"$ {command}\n{text}\n\n")
        self.transcript.flush()
        return text, int(line.split()[1])

    def stop(self):
        """Ends it with all that it started, which has its session."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--sid", str(self.process.pid)], stdout=subprocess.PIPE, text=True, check=False,
        )
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait()
        self.transcript.close()


class Trial:
    """The cluster, the shell, the loads, and the section that is being tried."""

    def __init__(self, docker):
        self.docker = docker
        self.sections = sections()
        shutil.rmtree(FOLDER, ignore_errors=True)
        self.repository = FOLDER / "repository"
        # What the reader makes his own.
        for folder in ("deploy/kubernetes", "deploy/monitoring"):
            shutil.copytree(ROOT / folder, self.repository / folder)
        images = {"perennial:0.1.0": IMAGE, "perennial:0.2.0": f"{IMAGE}:next", "perennial:broken": f"{IMAGE}:broken"}
        self.cluster = StandIn(docker, FOLDER / "cluster", NETWORK, NAMESPACE, images)
        self.shell = Shell(self.environment(images), self.repository)
        self.title, self.commands, self.printed = None, [], ""
        self.loads, self.load = [], None
        self.controller = Controller(self)

    def environment(self, images):
        """Commands find the stand-in where they look for kubectl."""
        folder = FOLDER / "bin"
        folder.mkdir(parents=True)
        python = OUT / "tools/venv/bin/python"
        (folder / "kubectl").write_text(f'#!/bin/sh\nexec {python} {ROOT}/deploy/checks/kubectl.py "$@"\n')
        (folder / "kubectl").chmod(0o755)
        path = self.docker.environment.get("PATH", os.environ["PATH"])
        environment = {
            **self.docker.environment,
            "PATH": f"{folder}:{path}",
            "STAND_IN_REAL_KUBECTL": shutil.which("kubectl"),
            "STAND_IN_FOLDER": str(FOLDER / "cluster"),
            "STAND_IN_NETWORK": NETWORK,
            "STAND_IN_NAMESPACE": NAMESPACE,
            "STAND_IN_IMAGES": json.dumps(images),
        }
        environment.pop("PYTHONPATH", None)
        return environment

    # -- Sections and their commands

    @contextlib.contextmanager
    def section(self, title, loaded=True):
        """A section, from its first command to its last, with the load around it."""
        say(f"   {title}")
        self.title, self.printed = title, ""
        commands, expected = self.sections.pop(title)
        self.commands = list(commands)
        self.shell.transcript.write(f"\n==== {title}\n\n")
        if loaded:
            self.begin_load()
        began = time.monotonic()
        yield
        self.skip_untried()
        assert not self.commands, f"{title}: not run: {self.commands[0]}"
        self.check_printed(expected)
        figures = self.end_load() if self.load else ""
        say(f"      {time.monotonic() - began:.0f} s{figures}")

    def skip_untried(self):
        while self.commands and any(self.commands[0].startswith(start) for start in UNTRIED):
            self.commands.pop(0)

    def run(self, start, *expected, fill=(), stdin="", code=0, background=False):
        """Runs the section's next command, which starts so, with what the reader fills in,
        and looks for what it has to print."""
        self.skip_untried()
        assert self.commands, f"{self.title}: no command left that starts with {start}"
        command = self.commands.pop(0)
        assert command.startswith(start), f"{self.title}: expected {start}, found {command}"
        for placeholder, value in fill:
            assert placeholder in command, f"{self.title}: no {placeholder} in {command}"
            command = command.replace(placeholder, value)
        text, ended = self.shell.run(command, stdin)
        self.printed += text + "\n"
        assert code in (None, ended), f"{command}\nended with {ended}, not {code}:\n{text}"
        for each in expected:
            assert re.search(each, text), f"{command}\ndid not print {each}, but:\n{text}"
        return text

    def would_print(self, *expected):
        """Whether the section's next command prints this by now."""
        text, _ = self.shell.run(self.commands[0])
        return all(re.search(each, text) for each in expected)

    def follow(self, start, *expected):
        """A command that goes on until it is interrupted."""
        self.skip_untried()
        self.commands[0] += " &"
        self.run(start)
        text = ""
        deadline = time.monotonic() + 30
        # Interrupted when it has had time to say something.
        time.sleep(5)
        text, _ = self.shell.run("kill %%; wait")
        self.printed += text + "\n"
        for each in expected:
            assert re.search(each, text), f"{start}\ndid not print {each}, but:\n{text}"
        assert time.monotonic() < deadline

    def check_printed(self, expected):
        """What the runbook says is printed was printed, numbers and ids aside."""
        printed = {normal(line) for line in self.printed.splitlines()}
        for line in expected:
            parts = [normal(part) for part in line.split("…")]
            found = any(contains(each, parts) for each in printed)
            assert found, f"{self.title}: nothing printed this line of the runbook: {line}\n{self.printed}"

    def note(self, line):
        if not self.shell.transcript.closed:
            self.shell.transcript.write(f"{line}\n")

    # -- The load

    def connect(self, address):
        """A client like any other, with a certificate if the cluster asks for one."""
        folder = FOLDER / "client"
        if not folder.exists():
            certificate(folder, self.cluster.folder / "issued/perennial-authority", "load")
        files = [(folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
        return Client(address, grpc.ssl_channel_credentials(*files), name="perennial")

    def addresses(self):
        pods = self.cluster.pods("node").items()
        return {pod: self.cluster.address(each) for pod, each in pods if each["State"]["Running"]}

    def begin_load(self):
        found = self.addresses()
        self.load = Load([found[f"perennial-{nr}"] for nr in range(3)], patient=True, connect=self.connect,
                         patience_s=COMMAND_WITHIN_S)
        until("commands are answered", lambda: self.load.answered > 200)

    def finish_load(self):
        """Waits for commands to be answered again, and ends the load."""
        before, load = self.load.answered, self.load
        until("commands are answered again", lambda: load.answered > before + 200)
        load.stop()
        self.load = None
        assert not load.failures(), load.failures()
        self.loads.append(load)
        return load

    def end_load(self):
        """Ends the load and compares the sums of all loads."""
        load = self.finish_load()
        first, *others = [found for pod, found in self.addresses().items() if int(pod.rpartition("-")[2]) < 3]
        for each in self.loads:
            each.check_sums([first])
        load.check_sums(others)
        return f", {load.answered} commands answered, {load.repeated} sent again, sums are right"

    @contextlib.contextmanager
    def visited(self, entity_type, entity_id):
        """An entity that is asked again and again, whatever it answers."""
        client = self.connect(f"{self.addresses()['perennial-0']}:7400")
        ending = threading.Event()

        def visit():
            while not ending.wait(0.1):
                with contextlib.suppress(grpc.RpcError):
                    client.reply(entity_type, entity_id, "get")

        visitor = threading.Thread(target=visit)
        visitor.start()
        try:
            yield
        finally:
            ending.set()
            visitor.join()

    # -- Around commands

    def members(self):
        command = "pn cluster status --output json 2>/dev/null"
        text, code = self.shell.run(command)
        return json.loads(text)["members"] if code == 0 else []

    def member(self, pod):
        """The member that a pod is, by the address it advertises."""
        found = [each for each in self.members() if each["address"].startswith(f"{pod}.") and each["status"] == "up"]
        return found[0] if found else None

    def until_up(self, nodes):
        until(f"{nodes} nodes are up", lambda: sum(each["status"] == "up" for each in self.members()) == nodes)

    def ready(self):
        return sum(self.cluster.is_ready(each) for each in self.cluster.pods("node").values())

    def healthy(self):
        """Whether the image's own health check succeeds in every node."""
        return all(each["State"]["Health"]["Status"] == "healthy" for each in self.cluster.pods("node").values())

    def is_stuck(self):
        """Whether no command is answered for a while."""
        before = self.load.answered
        time.sleep(5)
        return self.load.answered == before

    def lose(self, pod):
        """A node and its disk are gone at once."""
        with self.cluster.objects() as objects:
            objects["disks to delete"] = [*objects.get("disks to delete", []), f"data-{pod}"]
        self.docker("kill", self.cluster.container(pod))
        self.cluster.remove(pod, 0)

    def shown_certificate(self):
        """The serial number of the certificate that clients see at the forwarded port."""
        shown = "openssl s_client -connect localhost:7400 -alpn h2 </dev/null 2>/dev/null | openssl x509 -noout -serial"
        found = re.search("serial=(.+)", self.shell.run(shown)[0])
        return found and found[1]

    def start_postgres(self):
        """As the superuser that CloudNativePG's pods let in."""
        script = (
            "set -e; bin=$(echo /usr/lib/postgresql/*/bin); cd /tmp;"
            "[ -d data ] || { $bin/initdb --auth=trust --username=postgres data >/dev/null;"
            "echo 'host all all all trust' >>data/pg_hba.conf; };"
            "exec $bin/postgres -D data -c listen_addresses='*' -c unix_socket_directories=/tmp"
        )
        self.docker(
            "run", "--detach", "--name", self.cluster.container(POSTGRES_POD), "--hostname", POSTGRES_POD,
            f"--network={NETWORK}", f"--network-alias={POSTGRES_POD}", "--user=postgres", "--env=PGHOST=/tmp",
            "--env=PGUSER=postgres", f"--label=stand-in={NETWORK}", f"--label=pod={POSTGRES_POD}",
            "--label=component=postgres", "--label=owner=postgres", DEBIAN_IMAGE, "bash", "-c", script,
        )
        container = self.cluster.container(POSTGRES_POD)
        made = ("exec", container, "psql", "-c", "CREATE ROLE perennial LOGIN PASSWORD 'perennial'")
        until("Postgres answers", lambda: self.docker(*made, check=False, stderr=subprocess.DEVNULL).returncode == 0)
        self.docker("exec", container, "createdb", "--owner=perennial", "perennial")

    def make_images(self):
        """Versions to change to: one that is the same program, one that does not start."""
        for tag, change in (("next", "LABEL version=next"), ("broken", 'ENTRYPOINT ["perennial", "--version"]')):
            containerfile = f"FROM {IMAGE}\n{change}\n"
            self.docker("build", "--quiet", "--network=none", f"--tag={IMAGE}:{tag}", "-", input=containerfile)

    def stop(self):
        """Ends everything that was started; nothing of it is kept but the transcript."""
        if self.load:
            self.load.stop()
        self.shell.stop()
        self.controller.stop()

    def hold_transaction(self, database, sql):
        """Somebody's transaction that stays open."""
        held = f"BEGIN; {sql}; SELECT pg_sleep(1000)"
        self.docker("exec", "--detach", self.cluster.container(POSTGRES_POD), "psql", database, "-c", held)

    def postgres(self, sql):
        return self.docker("exec", self.cluster.container(POSTGRES_POD), "psql", "perennial", "-tAc", sql)


class Controller:
    """Brings the containers to what was applied, as long as the trial lasts, and tells the
    load where the nodes are."""

    def __init__(self, trial):
        self.trial = trial
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        ready_since, known = {}, {}
        while not self.ending.wait(0.5):
            try:
                self.trial.cluster.reconcile(ready_since)
                for pod, address in self.trial.addresses().items():
                    number = int(pod.rpartition("-")[2])
                    if self.trial.load and number < 3 and known.get(pod) != address:
                        self.trial.load.moved(number, address)
                    known[pod] = address
            except (Exception, SystemExit) as error:  # pylint: disable=broad-except
                # Containers come and go meanwhile; it is tried again.
                self.trial.note(f"(the controller: {error})")

    def stop(self):
        self.ending.set()
        self.thread.join()


def normal(line):
    """A line without what differs from one run to the next."""
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,}", "0", line)
    line = re.sub(r"\d+", "0", line)
    return re.sub(r"[-+]{3,}", "-", " ".join(line.split()))


def contains(line, parts):
    """Whether the parts are in the line, in their order."""
    at = 0
    for part in parts:
        at = line.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def clean(docker):
    """Removes what the stand-in made in Docker."""
    ids = docker("ps", "--all", "--quiet", f"--filter=label=stand-in={NETWORK}").split()
    if ids:
        docker("rm", "--force", "--volumes", *ids, check=False)
    volumes = docker("volume", "ls", "--quiet", f"--filter=name={NETWORK}-data-").split()
    if volumes:
        docker("volume", "rm", "--force", *volumes, check=False)
