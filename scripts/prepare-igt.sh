#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Prints a directory to lay over the guest's root (qemu-boot.sh --overlay) that has igt_runner and the tests that
# scripts/igt-subtests.txt names, with the libraries that they need. They are Debian's, of a suite that has them: the
# packages are unpacked and nothing of them is installed anywhere.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"

suite=forky
list=$MIRAGE_SRC/scripts/igt-subtests.txt
subtests() { sed -e 's/ *#.*//' -e '/^$/d' "$list"; }

# apt with sources and state of its own; to its knowledge nothing is installed, so it fetches everything that is needed.
private_apt() { # DIR ARGUMENTS...
	local d=$1
	shift
	apt-get -q -o Dir::State="$d/state" -o Dir::State::status="$d/status" -o Dir::Cache="$d/cache" -o Dir::Etc::sourcelist="$d/sources.list" \
		-o Dir::Etc::sourceparts=/dev/null -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User=root \
		-o APT::Install-Recommends=false "$@"
}

# The mirror that this root's own packages come from.
mirror() {
	local uri
	uri=${MIRAGE_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)}
	[ -n "$uri" ] || die "no Debian mirror in the configuration of apt"
	echo "${uri%/}"
}

fetch() { # DIR
	mkdir -p "$1/state/lists/partial" "$1/cache/archives/partial"
	: >"$1/status"
	echo "deb $(mirror) $suite main" >"$1/sources.list"
	private_apt "$1" update
	private_apt "$1" install -y --download-only igt-gpu-tools igt-gpu-tools-tests
}

needed_libraries() { # UNPACKED PROGRAM: what its own loader finds for it
	"$1/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$1/usr/lib/x86_64-linux-gnu" --list "$2" | awk '$2 == "=>" { print $3 }'
}

assemble() { # UNPACKED TARGET
	local from=$1 to=$2 programs=usr/libexec/igt-gpu-tools libraries=usr/lib/x86_64-linux-gnu program
	mkdir -p "$to/$programs" "$to/$libraries" "$to/usr/bin" "$to/lib64"
	cp "$from"/usr/bin/igt_{runner,resume,results} "$to/usr/bin/"
	for program in $(subtests | cut -d@ -f2 | sort -u); do
		cp "$from/$programs/$program" "$to/$programs/" || die "$suite's igt-gpu-tools-tests has no $program"
	done
	for program in "$to"/usr/bin/* "$to/$programs"/*; do
		needed_libraries "$from" "$program"
	done | sort -u | xargs cp -L -t "$to/$libraries"
	printf 'TESTLIST\n%s\nEND TESTLIST\n' "$(subtests | cut -d@ -f2 | uniq | xargs)" >"$to/$programs/test-list.txt"
	subtests >"$to/$programs/mirage.testlist"
	cp -L "$from/$libraries/ld-linux-x86-64.so.2" "$to/lib64/"
	# The C library loads it when a thread is cancelled.
	cp -L "$from/$libraries/libgcc_s.so.1" "$to/$libraries/"
	chmod -R u=rwX,go=rX "$to"
}

make_overlay() {
	local tmp=$dir.tmp
	[ ! -e "$dir/complete" ] || return 0
	rm -rf "$tmp" "$dir"
	mkdir -p "$tmp/unpacked"
	logged "igt-gpu-tools from $suite" "$MIRAGE_CACHE/log/igt.log" fetch "$tmp"
	for deb in "$tmp"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$tmp/unpacked"; done
	assemble "$tmp/unpacked" "$tmp/overlay"
	dpkg-deb -f "$tmp"/cache/archives/igt-gpu-tools-tests_*.deb Version >"$tmp/complete"
	find "$tmp" -mindepth 1 -maxdepth 1 ! -name overlay ! -name complete -exec rm -rf {} +
	mv "$tmp" "$dir"
}

dir=$MIRAGE_CACHE/igt-$( (echo "$suite"; cat "$list" "$0") | key)
[ -e "$dir/complete" ] || with_lock igt make_overlay
echo "$dir/overlay"
