"""Authorities and certificates for the checks, made with openssl, in folders with the
names that cert-manager uses: ca.crt, tls.crt, tls.key."""

import shutil
import subprocess

from docker_host import run

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def authority(folder, name):
    """An authority in `folder`, trusted by nobody yet."""
    folder.mkdir(parents=True, exist_ok=True)
    run(
        "openssl", "req", "-x509", *KEY, "-days", "2", "-subj", f"/CN={name}",
        "-keyout", folder / "ca.key", "-out", folder / "ca.crt", stderr=subprocess.DEVNULL,
    )


def certificate(folder, authority_folder, name, *names):
    """A certificate for `name` and further names, `IP:` and an address among them, in
    `folder`, with the authority that the others are of."""
    folder.mkdir(parents=True, exist_ok=True)
    run(
        "openssl", "req", *KEY, "-subj", f"/CN={name}", "-keyout", folder / "tls.key",
        "-out", folder / "tls.csr", stderr=subprocess.DEVNULL,
    )
    all_names = [each if each.startswith("IP:") else f"DNS:{each}" for each in names or (name,)]
    extensions = folder / "extensions"
    extensions.write_text(f"subjectAltName={','.join(all_names)}\nextendedKeyUsage=serverAuth,clientAuth\n")
    run(
        "openssl", "x509", "-req", "-days", "2", "-in", folder / "tls.csr", "-CA", authority_folder / "ca.crt",
        "-CAkey", authority_folder / "ca.key", "-CAcreateserial", "-extfile", extensions,
        "-out", folder / "tls.crt", stderr=subprocess.DEVNULL,
    )
    (folder / "tls.csr").unlink()
    extensions.unlink()
    shutil.copy(authority_folder / "ca.crt", folder / "ca.crt")
    # The user of the image reads them.
    for file in folder.iterdir():
        file.chmod(0o644)
