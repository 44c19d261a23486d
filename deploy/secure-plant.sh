#!/bin/sh
# Makes everything that a secured plant starts from, in one folder: an authority with certificates, users with random
# passwords on both protocols, mosquitto's configuration and a config.toml for the service.
#
#   deploy/secure-plant.sh FOLDER HOST [HOST...]     the names and addresses of the machine of broker and service
#
# What is there already stays; after `cangate certs revoke` run it again, it copies the new revocation list to where it
# is read. docs/security.md says which part of the folder goes where. FOLDER is a path of letters, digits and . _ / -
# only: it is written into configuration files of three kinds.
set -eu
PATH=$PATH:/usr/sbin
umask 077
[ $# -ge 2 ] || { echo "usage: $0 FOLDER HOST [HOST...]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
cangate=${CANGATE:-"$here/../.venv/bin/cangate"}
case $1 in
/*) plant=$1 ;;
*) plant=$(pwd)/$1 ;;
esac
# in a shell of its own: which letters there are is a matter of the locale
(LC_ALL=C && case $plant in *[!A-Za-z0-9._/-]*) exit 1 ;; esac && [ -n "$1" ]) || {
    echo "$0: unusable folder '$plant': its path may have letters, digits and . _ / - only" >&2
    exit 2
}
command -v mosquitto_passwd >/dev/null || { echo "$0: mosquitto_passwd is not installed" >&2; exit 2; }
mkdir -p "$plant"
plant=$(cd "$plant" && pwd)
host=$2
shift
pki=$plant/pki broker=$plant/mosquitto opcua=$plant/opcua
mkdir -p "$plant/passwords" "$plant/frames" "$broker/data" "$opcua/trusted"

issue() { # NAME... [--host HOST...]: certificates for those names that have none
    names="" options=""
    for word in "$@"; do
        case $word in
        --host*) options="$options ${word%%=*} ${word#*=}" ;;
        *) [ -e "$pki/$word.pem" ] || names="$names $word" ;;
        esac
    done
    # shellcheck disable=SC2086 # one word a name
    [ -z "$names" ] || "$cangate" certs issue "$pki" $names $options >/dev/null
}
[ -e "$pki/ca.pem" ] || "$cangate" certs init "$pki" >/dev/null
hosts=""
for name in "$@"; do hosts="$hosts --host=$name"; done
# shellcheck disable=SC2086 # one word an option
issue broker cangate $hosts
# clients are reached under no name: with one they could pose as the broker
issue camera gate plc operator engineer tester

touch "$broker/passwd"
for name in cangate camera gate plc operator engineer tester; do
    [ -s "$plant/passwords/$name" ] && continue
    od -An -N18 -tx1 /dev/urandom | tr -d ' \n' >"$plant/passwords/$name.new"
    mv "$plant/passwords/$name.new" "$plant/passwords/$name"
    case $name in
    plc | operator | engineer) "$cangate" config add-user "$opcua/users.txt" "$name" --role "$name" \
        --password-file "$plant/passwords/$name" >/dev/null ;;
    esac
    # a file, not an argument, which every user of this machine could read
    printf '%s:%s\n' "$name" "$(cat "$plant/passwords/$name")" >"$broker/new"
    mosquitto_passwd -U "$broker/new"
    cat "$broker/new" >>"$broker/passwd"
    rm "$broker/new"
done

cp "$pki/ca.pem" "$pki/crl.pem" "$pki/broker.pem" "$pki/broker.key" "$broker/"
cp "$pki/ca.pem" "$pki/crl.pem" "$opcua/trusted/"
if ! [ -s "$broker/acl" ]; then
    cp "$here/mosquitto/acl" "$broker/acl.new"
    mv "$broker/acl.new" "$broker/acl"
fi
for name in camera gate operator engineer tester; do
    grep -q "^user $name\$" "$broker/acl" ||
        echo "$broker/acl gives $name no rights; see $here/mosquitto/acl" >&2
done
if ! [ -s "$broker/mosquitto.conf" ]; then
    sed -e "s|/etc/cangate/mosquitto|$broker|" -e "s|/var/lib/mosquitto/|$broker/data/|" \
        "$here/mosquitto/mosquitto.conf" >"$broker/mosquitto.conf.new"
    mv "$broker/mosquitto.conf.new" "$broker/mosquitto.conf"
fi
if [ "$(id -u)" -eq 0 ] && id mosquitto >/dev/null 2>&1; then # the broker becomes this user before it reads its files
    chmod 711 "$plant"
    chown -R mosquitto: "$broker"
fi
if ! [ -s "$plant/config.toml" ]; then
    cat >"$plant/config.toml.new" <<EOF
[mqtt]
host = "$host"
port = 8883
username = "cangate"
password_file = "$plant/passwords/cangate"
tls = true
ca_file = "$pki/ca.pem"
cert_file = "$pki/cangate.pem"
key_file = "$pki/cangate.key"

[opcua.server]
host = "0.0.0.0"
security = ["Basic256Sha256_SignAndEncrypt", "Aes128Sha256RsaOaep_SignAndEncrypt", "Aes256Sha256RsaPss_SignAndEncrypt"]
anonymous = false
users_file = "$opcua/users.txt"
trusted_certs = "$opcua/trusted"
cert_file = "$pki/cangate.pem"
key_file = "$pki/cangate.key"

[model]
name = ""                                # of \`cangate train\`; without a model every event is ERROR/model_unavailable

[images]
roots = ["$plant/frames"]
EOF
    mv "$plant/config.toml.new" "$plant/config.toml"
fi
if ! [ -s "$plant/tester.env" ]; then
    cat >"$plant/tester.env.new" <<EOF
CANGATE_MQTT__USERNAME=tester
CANGATE_MQTT__PASSWORD_FILE=$plant/passwords/tester
CANGATE_MQTT__CERT_FILE=$pki/tester.pem
CANGATE_MQTT__KEY_FILE=$pki/tester.key
EOF
    mv "$plant/tester.env.new" "$plant/tester.env"
fi
echo "$plant is ready: mosquitto -c mosquitto/mosquitto.conf, cangate run -c config.toml; passwords/ goes to its owners"
