"""The Docker of the checks: the daemon that answers already, or one of their own, and
the images they need, made without any registry: a Debian by debootstrap, and on top of
it what builds Perennial's image.

A daemon of our own is unpacked and started with everything it writes below
target/deploy/docker; that needs root and a Debian machine.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "target" / "deploy"
FOLDER = OUT / "docker"
# A Debian with a Postgres.
DEBIAN_IMAGE = "perennial-test-debian"
# Made anew for other dependencies.
LOCKED = hashlib.sha256((ROOT / "Cargo.lock").read_bytes()).hexdigest()[:12]
BUILD_IMAGE = f"perennial-test-build:{LOCKED}"
# What is tested.
IMAGE = "perennial-test"
# A loaded machine needs long for what takes seconds elsewhere.
PATIENCE_S = 180


def run(*command, check=True, **options):
    """Runs a command and returns what it printed, or, unchecked, how it ended."""
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
    """Tells who watches."""
    print(text, flush=True)


class Docker:
    """The daemon that answers already, or one of our own; called like `docker`."""

    def __init__(self):
        # The builder that finds Containerfile.dockerignore.
        self.environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        self.daemon = None
        if shutil.which("docker") and self._answers():
            return
        if os.geteuid() != 0:
            sys.exit("no Docker daemon answers, and starting one needs root")
        unpack("docker.io", "containerd", "runc")
        # Its name server for containers redirects a port inside of theirs with iptables.
        unpack("iptables", "libip4tc2", "libip6tc2", "libxtables12", "libnftnl11", "libmnl0")
        root = FOLDER / "root"
        iptables = root / "usr/sbin/iptables"
        if not iptables.is_symlink():
            iptables.symlink_to("xtables-legacy-multi")
        libraries = next(root.glob("usr/lib/*-linux-gnu"))
        self.environment["LD_LIBRARY_PATH"] = str(libraries)
        self.environment["XTABLES_LIBDIR"] = str(libraries / "xtables")
        self.environment["PATH"] = f"{root}/usr/bin:{root}/usr/sbin:{os.environ['PATH']}"
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
        """Ends the daemon, if it is our own."""
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


def make_debian(docker):
    """A Debian with a C compiler and the Postgres of the checks."""
    if docker("images", "--quiet", DEBIAN_IMAGE):
        return
    say("making a Debian with debootstrap")
    unpack("debootstrap")
    root = FOLDER / "debian"
    run("rm", "-rf", root)
    include = "gcc,libc6-dev,binutils,ca-certificates,postgresql"
    environment = {**os.environ, "DEBOOTSTRAP_DIR": str(FOLDER / "root/usr/share/debootstrap")}
    run(
        FOLDER / "root/usr/sbin/debootstrap", "--variant=minbase", f"--include={include}",
        "bookworm", root, "http://deb.debian.org/debian", env=environment,
    )
    run("rm", "-rf", root / "var/cache/apt", root / "var/lib/apt/lists")
    import_folder(docker, root, DEBIAN_IMAGE)
    run("rm", "-rf", root)


def make_build_image(docker):
    """What builds Perennial's image: the compiler, and the sources of all dependencies."""
    if docker("images", "--quiet", BUILD_IMAGE):
        return
    make_debian(docker)
    say("adding Rust and the sources of all dependencies")
    folder = FOLDER / "build"
    run("rm", "-rf", folder)
    toolchain = run("rustc", "--print", "sysroot", cwd=ROOT)
    without_manual = shutil.ignore_patterns("doc")
    shutil.copytree(toolchain, folder / "toolchain", symlinks=True, ignore=without_manual)
    # With the sources there, the build works without the network.
    run("cargo", "fetch", "--locked", cwd=ROOT, env={**os.environ, "CARGO_HOME": str(folder / "cargo")})
    (folder / "Containerfile").write_text(
        f"FROM {DEBIAN_IMAGE}\n"
        "COPY toolchain /usr/local\n"
        "COPY cargo /usr/local/cargo\n"
        "ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true\n"
    )
    docker("build", "--network=none", f"--file={folder}/Containerfile", f"--tag={BUILD_IMAGE}", folder)
    run("rm", "-rf", folder)


def import_folder(docker, folder, image):
    """An image out of a folder."""
    tar = subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE)
    docker("import", "-", image, stdin=tar.stdout)
    if tar.wait() != 0:
        sys.exit("tar failed")
