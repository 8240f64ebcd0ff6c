#!/bin/sh
# `make install-systemd`: the daemon in /opt/platziverse, its user, its units, its configuration. It starts nothing.
# DESTDIR: all of it below this directory, for packages and tests; then no user is made and systemd is not told.
# GROUP: who may read the configuration.
set -eu
umask 022
cd "$(dirname "$0")/.."
DESTDIR=${DESTDIR:-} GROUP=${GROUP:-platziverse} PYTHON=${PYTHON:-python3}
home=$DESTDIR/opt/platziverse etc=$DESTDIR/etc/platziverse old=$DESTDIR/etc/platziverse.toml

# The service sees no home directory (ProtectHome=yes), and so no Python that lives in one.
interpreter=$PYTHON
test ! -x "$home/bin/python" || interpreter=$home/bin/python
real=$("$interpreter" -c 'import os, sys; print(os.path.realpath(sys.executable))')
case $real in
/root/* | /home/*)
    echo "$real is in a home directory, which the service cannot see." >&2
    echo "Name another: make install-systemd PYTHON=/usr/bin/python3 (and remove $home if it is there)" >&2
    exit 1 ;;
esac

# From a copy: root leaves nothing in the clone of its owner, and an old build/lib is not installed.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 130' INT TERM
cp -R platziverse twisted systemd examples docs setup.py setup.cfg pyproject.toml README.rst LICENSE MANIFEST.in "$copy"
test -x "$home/bin/python" || { echo "making $home"; "$PYTHON" -m venv "$home"; }
echo "installing into $home; a minute or two the first time"
"$home/bin/pip" install --quiet --disable-pip-version-check "$copy[embedded,redis]"

install -D -m 644 systemd/sysusers.d/platziverse.conf "$DESTDIR/etc/sysusers.d/platziverse.conf"
test -n "$DESTDIR" || systemd-sysusers /etc/sysusers.d/platziverse.conf
install -D -m 644 -t "$DESTDIR/etc/systemd/system" systemd/platziverse.service systemd/platziverse.socket
install -D -m 755 systemd/platziverse.sh "$DESTDIR/usr/local/bin/platziverse"

# What `platziverse passwd` makes in a directory of this group, the group may read.
install -d -m 750 -g "$GROUP" "$etc"
if test ! -e "$etc/platziverse.toml"; then
    given=examples/platziverse.toml
    if test -e "$old"; then given=$old; fi
    { grep -q '^state_dir' "$given" || printf 'state_dir = "/var/lib/platziverse"\n\n'; cat "$given"; } > "$copy/new"
    install -m 640 -g "$GROUP" "$copy/new" "$etc/platziverse.toml"
    if test -e "$old"; then mv "$old" "$old.moved"; echo "$old is now $etc/platziverse.toml"; fi
fi

if test -z "$DESTDIR" && test -d /run/systemd/system; then
    systemctl daemon-reload
    if systemctl --quiet is-active platziverse; then
        echo "The old version still runs. Now: systemctl restart platziverse"
        exit
    fi
fi
echo "Now: systemctl enable --now platziverse"
