#!/bin/sh
# Installs the servers and clients that the integration tests talk to, where that is possible; what is still
# missing afterwards is named here, and the tests that need it are skipped with the same reason. With other
# commands and their packages as arguments, in pairs, it installs these.
set -eu

wanted() {
    [ $# = 0 ] || { printf '%s %s\n' "$@"; return; }
    cat << 'END'
postgres postgresql
mosquitto mosquitto
mosquitto_pub mosquitto-clients
node nodejs
npm npm
curl curl
openssl openssl
fail2ban-regex fail2ban
haproxy haproxy
nginx nginx-light
redis-server redis-server
systemd-analyze systemd
chromium chromium
END
}

missing() {
    PATH="$PATH:/usr/sbin:$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | tail -n 1)"
    wanted "$@" | while read -r command package; do
        command -v "$command" > /dev/null || printf '%s ' "$package"
    done
}

packages=$(missing "$@")
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "installing $packages: a few minutes"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1  # RUNLEVEL: no service is started
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -qq --no-install-recommends $packages
    packages=$(missing "$@")
fi
[ -z "$packages" ] || echo "not installed, so what needs them is skipped: $packages"
