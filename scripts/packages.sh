# Sourced by run and test: installs Debian/Ubuntu packages that are missing, saying which and why.

# need PACKAGE REASON: notes PACKAGE when it is not installed.
missing=()
need() {
    if ! dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; then
        missing+=("$1")
        echo "missing: $1 ($2)" >&2
    fi
}

# Installs what need noted. Nothing is touched when nothing is missing.
install_missing() {
    [ "${#missing[@]}" -gt 0 ] || return 0
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "not root and sudo is missing; as root run: apt-get install ${missing[*]}" >&2
            return 1
        fi
        as_root=(sudo)
        echo "using sudo to install: ${missing[*]}" >&2
    fi
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# Rust itself comes from its own installer, not from a package of the distribution, which is too old.
need_cargo() {
    if ! command -v cargo >/dev/null; then
        echo "cargo is missing: install Rust 1.95 or later from https://rustup.rs, then run this again" >&2
        return 1
    fi
}

# What links the program.
need_linker() {
    if ! command -v cc >/dev/null; then
        need gcc "links the program"
        need libc6-dev "links the program"
    fi
}

# On a system without dpkg, names the packages' contents and goes on: they may be there under other names.
has_dpkg() {
    if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
        return 0
    fi
    echo "not Debian or Ubuntu: not looking for packages; the window needs X11 or Wayland libraries and a Vulkan driver" >&2
    return 1
}
