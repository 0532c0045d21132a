#!/bin/sh
# Puts a CRIU that works on current kernels at .criu/criu; changes nothing of the system.
#
# CRIU before 4.2 cannot dump an inet socket on Linux 6.16 and later, and stable distributions
# carry older ones. A system CRIU that is new enough is used as it is. Otherwise the package comes
# from a newer suite of the mirror that this machine's own apt sources name already, through a
# private apt directory, and is unpacked, with the C library it was built for, into .criu/root.
# Needs no privilege. Without CRIU everything else works; jobs are then suspended in place.
set -eu

prefix=${1:-.criu}
suites=${SINGULARITY_CRIU_SUITES:-forky testing sid}
case $prefix in /*) ;; *) prefix=$(pwd)/$prefix ;; esac
mkdir -p "$prefix"
log=$prefix/install.log
: >"$log"

say() { echo "criu: $*" >&2; }
give_up() {
    say "$*; going on without it (log: $log)"
    exit 0
}

new_enough() { # new_enough PROGRAM: does it start, and is it 4.2 or later?
    "$1" --version 2>/dev/null |
        awk '$1 == "Version:" { split($2, v, "."); ok = v[1] > 4 || (v[1] == 4 && v[2] >= 2) }
             END { exit !ok }'
}

if [ -x "$prefix/criu" ] && new_enough "$prefix/criu"; then exit 0; fi

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if own=$(command -v criu) && new_enough "$own"; then
    ln -sf "$own" "$prefix/criu"
    say "using $own"
    exit 0
fi

for tool in apt-get dpkg dpkg-deb; do
    command -v "$tool" >/dev/null || give_up "this machine has no $tool and no CRIU >= 4.2 of its own"
done
architecture=$(dpkg --print-architecture)
case $architecture in
amd64) loader=ld-linux-x86-64.so.2 triplet=x86_64-linux-gnu ;;
arm64) loader=ld-linux-aarch64.so.1 triplet=aarch64-linux-gnu ;;
*) give_up "no package is known for $architecture" ;;
esac

# The mirror that carries this machine's own release, and its distribution's keys (apt's own trusted
# ones where there is no such keyring). Third parties' repositories carry no CRIU.
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
keyring=$(. /etc/os-release && echo "/usr/share/keyrings/$ID-archive-keyring.gpg")
uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 2>>"$log" |
    awk -v release="$release" '$2 == release && $3 == "main" { print $1; exit }')
[ -n "$uri" ] || give_up "apt's sources name no mirror of this release ($release)"
[ -r "$keyring" ] && option="[signed-by=$keyring] " || option=

apt=$prefix/apt
get() { # an apt-get that knows only the private directory, and trusts only the mirror's own keys
    apt-get -q -y \
        -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts=- \
        -o Dir::State="$apt/state" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o APT::Sandbox::User="$(id -un)" -o APT::Install-Recommends=false \
        -o APT::Architecture="$architecture" -o APT::Get::List-Cleanup=true \
        -o Acquire::Languages=none -o Acquire::Retries=2 "$@" >>"$log" 2>&1
}

fetch() { # fetch SUITE: criu and all it needs, unpacked into root/
    rm -rf "$apt" "$prefix/root"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$prefix/root"
    : >"$apt/status"
    echo "deb $option$uri $1 main" >"$apt/sources.list"
    get update && get --download-only install criu || return 1
    for package in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$prefix/root" >>"$log" 2>&1 || return 1
    done
}

wrap() { # The prefix's own loader, so that neither C library ever sees the other's programs.
    found=$(find "$prefix/root" -name "$loader" | head -n 1)
    [ -n "$found" ] || return 1
    cat >"$prefix/criu" <<SCRIPT
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
exec "\$here/${found#"$prefix/"}" \\
    --library-path "\$here/root/usr/lib/$triplet:\$here/root/lib/$triplet" \\
    "\$here/root/usr/sbin/criu" "\$@"
SCRIPT
    chmod 755 "$prefix/criu"
}

for suite in $suites; do
    say "fetching it from suite $suite of this machine's mirror"
    if fetch "$suite" && wrap && new_enough "$prefix/criu"; then
        rm -rf "$apt"
        say "$("$prefix/criu" --version | awk '{ print $2; exit }') is ready"
        exit 0
    fi
done
rm -rf "$prefix/criu" "$apt" "$prefix/root"
give_up "no suite of ($suites) gave a CRIU >= 4.2 that starts here"
