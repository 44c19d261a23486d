#!/bin/sh
# Installs what the tests need beside Python, where it is missing and where this is Debian and root (or sudo without a
# password). Exits 0 in any case: a test whose tool is not here is skipped and says which.
set -u
PATH=$PATH:/usr/sbin
missing=""
command -v mosquitto >/dev/null || missing="$missing mosquitto"
command -v mosquitto_sub >/dev/null || missing="$missing mosquitto-clients"
command -v chromium >/dev/null || missing="$missing chromium"
command -v npm >/dev/null || missing="$missing npm"
command -v promtool >/dev/null || missing="$missing prometheus"
# Debian keeps the server's programs out of PATH
command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "not installed:$missing (this is not Debian); the tests that need them are skipped"
    exit 0
fi
root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "not installed:$missing (run as root: apt-get install$missing); the tests that need them are skipped"
        exit 0
    fi
    root=sudo
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
# a broker of its own must not start with the package: each test starts a private one; nor a database server, for
# which Debian makes a cluster that starts by itself, unless it is told not to before
if [ "${missing#*postgresql}" != "$missing" ]; then
    $root mkdir -p /etc/postgresql-common/createcluster.d
    echo "create_main_cluster = false" | $root tee /etc/postgresql-common/createcluster.d/cangate-tests.conf >/dev/null
fi
for package in $missing; do
    $root apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "could not install $package"
done
for service in mosquitto prometheus; do
    if [ -d /run/systemd/system ] && [ "${missing#*$service}" != "$missing" ]; then
        $root systemctl disable --now "$service" >/dev/null 2>&1 || true
    fi
done
exit 0
