#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes a small git tree to practise on, with a Makefile that is called as the kernel's is: practice.sh FOLDER
#
#   main      good (a tag), then the commit that breaks the answer, then more
#   topic     a series on base (a tag) with three faults: not signed, does not build alone, a fixup left over
#   topic-v1  its version before, with a patch that topic lacks
#   clash     changes what main changed
#   old.mbox, new.mbox  a patch for another version of the tree, and one for this (files that git ignores)
set -eu

rm -rf "$1"
mkdir -p "$1/kernel"
cd "$1"
git init -q -b main
git config user.name "Ann Author"
git config user.email ann@example.org
SIGNED="Signed-off-by: Ann Author <ann@example.org>"

commit() { # SUBJECT [TRAILER]
	git add -A
	git commit -q -m "$1" ${2:+-m "Why it is done."} ${2:+-m "$2"}
}

count() { # N: b.c counts to N
	printf '#include <stddef.h>\n\nint b(void)\n{\n\treturn %s;\n}\n' "$1" > kernel/b.c
}

printf '*.mbox\n' > .git/info/exclude
cat > Makefile <<'END'
ifndef sub
goals := $(filter-out defconfig olddefconfig,$(MAKECMDGOALS))
.PHONY: $(goals) all defconfig olddefconfig
$(or $(goals),all): ; @$(MAKE) --no-print-directory -C $(O) -f $(CURDIR)/Makefile sub=1 srctree=$(CURDIR) $@
defconfig olddefconfig: ; @mkdir -p $(O) && touch $(O)/.config
else
objs := kernel/a.o kernel/b.o
all: $(objs)
$(objs): %.o: $(srctree)/%.c
	@mkdir -p $(dir $@)
	@echo "  CC      $@"
	@gcc -Wall $(if $(W),-Wextra) -c -o $@ $<
endif
END
printf 'int before;\n\nint a(void)\n{\n\treturn 42;\n}\n\nint after;\n' > kernel/a.c
count 1
commit "all: Make a tree" "$SIGNED"
git tag base
git tag good

git checkout -q -b topic-v1
count 2
commit "b: Count to two" "$SIGNED"
printf '\nint c(void)\n{\n\treturn later();\n}\n' >> kernel/a.c
commit "a: Use what comes later" "$SIGNED"
count 3
commit "b: Count to three" "$SIGNED"

git checkout -q -b topic topic-v1~1
sed -i 's/^int before;/int before;\nint later(void);/' kernel/a.c
commit "a: Declare it"
sed -i 's/return later();/return later() + 1;/' kernel/a.c
commit "fixup! a: Use what comes later" "$SIGNED"
printf '\nint d(int unused)\n{\n\treturn 1;\n}\n' >> kernel/b.c
commit "b: Add a warning" "$SIGNED"

git checkout -q -b clash base
sed -i 's/42/43/' kernel/a.c
commit "a: Answer 43" "$SIGNED"
git format-patch -q --stdout -1 > old.mbox

git checkout -q main
for n in 4 5 6 7; do
	if [ "$n" = 6 ]; then
		sed -i 's/42/41/' kernel/a.c
		commit "a: Break the answer" "$SIGNED"
	fi
	count "$n"
	commit "b: Count to $n" "$SIGNED"
done
count 9
commit "b: Count to nine" "$SIGNED"
git format-patch -q --stdout -1 > new.mbox
git reset -q --hard HEAD^
