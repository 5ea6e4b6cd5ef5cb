#!/bin/bash
# Start-up script (user data) of an AWS Spot instance with Ubuntu or Debian: docs/run-on-aws.md.
# It attaches one EBS volume, which holds the program, its packages and its checkpoints, and starts the training as a systemd service.
set -euo pipefail
shopt -s inherit_errexit # also within $(...)

# --- yours: change these -------------------------------------------------------------------------------------------------------------
: "${VOLUME:=vol-00000000000000000}" # in the availability zone of the instance
: "${RESILIENT:=resilient[tensorflow] @ git+https://git.example.com/resilient.git}" # what pip is to install
: "${PROGRAM:=https://git.example.com/you/training.git}"                          # the repository with your program,
: "${REVISION:=main}"                                                             # and a tag or commit of it that stays what it is
: "${COMMAND:=python train.py}"  # in that repository; directory= of its resilient.fit has to be a relative path, such as "runs/train"
: "${RUN_OPTIONS:=}"             # of resilient run, such as "--warm-standby"
: "${WHEN_DONE:=}"               # a shell command for root once training is done, such as one that gives the machine back

# --- AWS -----------------------------------------------------------------------------------------------------------------------------
readonly GRACE=100s # of the two minutes that a Spot instance is given
: "${METADATA:=http://169.254.169.254/latest}"

ask() { curl --fail --silent --show-error --max-time 5 "$@"; }

metadata() { # a path; version 2 of the service, which wants a token
    local token
    token=$(ask --request PUT --header "X-aws-ec2-metadata-token-ttl-seconds: 300" "$METADATA/api/token")
    ask --header "X-aws-ec2-metadata-token: $token" "$METADATA/meta-data/$1"
}

attached() { # to this instance. The machine before may hold it until it is gone: EBS gives it to one alone, and so only one trains
    aws ec2 attach-volume --region "$1" --volume-id "$VOLUME" --instance-id "$2" --device /dev/sdf > /dev/null ||
        [ "$(holder "$1")" = "$2" ]
}

holder() { # the instance that the volume is attached to
    aws ec2 describe-volumes --region "$1" --volume-ids "$VOLUME" --query 'Volumes[0].Attachments[0].InstanceId' --output text
}

disk() {
    local region instance
    region=$(metadata placement/region)
    instance=$(metadata instance-id)
    if ! command -v aws > /dev/null; then # Ubuntu's and Debian's images have none
        python3 -m venv "$PREFIX/opt/aws" >&2
        retry "$PREFIX/opt/aws/bin/pip" install --quiet awscli >&2
        PATH="$PREFIX/opt/aws/bin:$PATH"
    fi
    retry attached "$region" "$instance"
    wait_for "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${VOLUME/-/}" /dev/xvdf
}

# --- the rest is the same on every cloud ---------------------------------------------------------------------------------------------
: "${PREFIX:=}" # of all paths: for trying this script where it may not write to /
readonly DISK="$PREFIX/var/lib/training" UNITS="$PREFIX/etc/systemd/system" FSTAB="$PREFIX/etc/fstab"
readonly DONE="$PREFIX/etc/training-done.sh"
readonly WAIT=300 # seconds for a disk to appear

say() { echo "training: $*"; }
die() {
    echo "training: $*" >&2
    exit 1
}

retry() { # a command, until it works: package servers and attachments need a moment when a machine has just begun
    local left=60
    until "$@"; do
        ((left-- > 0)) || die "gave up: $*"
        sleep "${PAUSE:-10}"
    done
}

wait_for() { # one of these devices, whose name is printed
    local waited=0 device
    while ((waited++ < WAIT)); do
        for device in "$@"; do
            if [ -e "$PREFIX$device" ]; then
                readlink -f "$PREFIX$device"
                return
            fi
        done
        sleep 1
    done
    die "none of $* appeared within $WAIT s. Is the disk attached?"
}

mount_disk() { # a device; it gets a file system only where there is certainly nothing on it
    local device=$1 found=0 uuid
    mkdir -p "$DISK"
    if ! mountpoint --quiet "$DISK"; then
        blkid --probe "$device" > /dev/null || found=$?
        case $found in
            0) ;;
            2)
                cmp --silent --bytes=16777216 "$device" /dev/zero ||
                    die "$device is not empty, and holds no file system. Nothing was written."
                say "$device is empty: making a file system"
                mkfs.ext4 -q -m 0 "$device"
                ;;
            *) die "$device holds something that is no single file system (blkid: $found). Nothing was written." ;;
        esac
        uuid=$(blkid --probe --match-tag UUID --output value "$device")
        grep --quiet "$uuid" "$FSTAB" ||
            echo "UUID=$uuid /var/lib/training ext4 defaults,nofail,x-systemd.device-timeout=$WAIT 0 2" >> "$FSTAB"
        mount "$device" "$DISK"
    fi
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    retry apt-get update --quiet --quiet
    retry apt-get install --quiet --quiet --yes git python3 python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "python3 is older than 3.11. Take an image of Ubuntu 24.04, Debian 12 or newer."
}

install_training() { # once: the disk keeps it, so that the next machine trains within seconds, and with the very same packages
    id training > /dev/null 2>&1 || useradd --system --home-dir /var/lib/training --shell /usr/sbin/nologin training
    if ! "$DISK/venv/bin/python" -c 'import resilient' 2> /dev/null; then
        rm -rf "$DISK/venv"
        python3 -m venv "$DISK/venv"
        retry "$DISK/venv/bin/pip" install --quiet "$RESILIENT"
    fi
    if [ ! -e "$DISK/program/.installed" ]; then
        rm -rf "$DISK/program"
        retry git clone --quiet "$PROGRAM" "$DISK/program"
        git -C "$DISK/program" checkout --quiet "$REVISION"
        if [ -e "$DISK/program/requirements.txt" ]; then
            retry "$DISK/venv/bin/pip" install --quiet --requirement "$DISK/program/requirements.txt"
        fi
        touch "$DISK/program/.installed"
    fi
    chown training: "$DISK" # frameworks write into their home
    chown -R training: "$DISK/program" # the number of the user may be another one on another image
}

install_unit() { # which starts at each boot, also where this script runs only at the first one
    local words
    read -ra words <<< "$COMMAND"
    [ "${words[0]}" != python ] || words[0]="$DISK/venv/bin/python"
    mkdir -p "$UNITS/train.service.d"
    "$DISK/venv/bin/resilient" unit systemd --name train --run-as training --directory "$DISK/program" --grace "$GRACE" \
        --run-options "$RUN_OPTIONS" --output "$UNITS/train.service" -- "${words[@]}"
    {
        printf '[Unit]\nRequiresMountsFor=/var/lib/training\n'
        if [ -n "$WHEN_DONE" ]; then
            printf '[Service]\nExecStopPost=+/bin/sh %s\n' "$DONE"
        fi
    } > "$UNITS/train.service.d/disk.conf"
    # shellcheck disable=SC2016  # these are systemd's variables
    printf '[ "$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS" = "success exited 0" ] || exit 0\n%s\n' "$WHEN_DONE" > "$DONE"
    systemctl daemon-reload
    systemctl enable --now train.service
    say "training is started: journalctl -fu train, $DISK/venv/bin/resilient ls $DISK/program/runs/train"
}

[[ "$RESILIENT $PROGRAM" != *git.example.com* ]] || die "set RESILIENT and PROGRAM at the top of this script."
install_packages
device=$(disk)
mount_disk "$device"
install_training
install_unit
