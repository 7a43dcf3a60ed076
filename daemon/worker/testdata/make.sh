#!/bin/sh -e
# Makes the archives of this directory anew, all of one tree, with the programs that people make theirs with:
# GNU tar, bzip2, xz, Info-ZIP's zip and 7-Zip's 7z (Debian 13: bzip2 xz-utils zip 7zip).
cd "$(dirname "$0")"
here=$PWD
rm -f ./*.tar.* ./*.zip ./*.7z ./*.7z.00?
w=$(mktemp -d)
mkdir -p "$w/tree/maps/empty"
cd "$w/tree"
printf 'text\n' >maps/a.txt
printf '#!/bin/sh\n' >run.sh
chmod 755 run.sh
: >none
ln -s maps/a.txt link
printf ü >ü.cfg
# What looks like a program to the x86 filter: many opcodes of calls and jumps, near and far targets.
python3 -c '
import random, sys
r = random.Random(6)
sys.stdout.buffer.write(bytes(r.choice((0xe8, 0xe9, 0, 0xff, 0, 0xff, 7, r.randrange(256))) for _ in range(3000)))' >prog.so
find . -exec touch -hd '2012-03-04 05:06:07 UTC' {} +
export TZ=UTC
tar --sort=name --owner=0 --group=0 -cf ../tree.tar .
bzip2 -k ../tree.tar
(head -c 4096 ../tree.tar | bzip2; tail -c +4097 ../tree.tar | bzip2) >../two.tar.bz2
xz -k ../tree.tar
xz -k --block-size=3000 --check=sha256 -c ../tree.tar >../blocks.tar.xz
(head -c 4096 ../tree.tar | xz --check=crc32; head -c 8 /dev/zero; tail -c +4097 ../tree.tar | xz --check=none) >../two.tar.xz
xz -k --x86 --lzma2 -c ../tree.tar >../filter.tar.xz
zip -qry ../tree.zip .
zip -qry -fz ../zip64.zip .
zip -qry -P secret ../encrypted.zip .
7z a -snl -bso0 ../tree.7z .
7z a -snl -bso0 -m0=LZMA ../lzma.7z .
7z a -snl -bso0 -m0=BZip2 -ms=off ../bzip2.7z .
7z a -snl -bso0 -m0=Deflate ../deflate.7z .
7z a -snl -bso0 -mx=0 -mhc=off ../copy.7z .
7z a -snl -bso0 -m0=BCJ -m1=LZMA2 ../x86.7z .
7z a -snl -bso0 -m0=Delta:4 -m1=LZMA ../delta.7z .
7z a -snl -bso0 -m0=BCJ2 -m1=LZMA -m2=LZMA -m3=LZMA -mb0:1 -mb0s1:2 -mb0s2:3 ../bcj2.7z .
7z a -snl -bso0 -m0=PPMd ../ppmd.7z .
7z a -snl -bso0 -psecret ../encrypted.7z .
7z a -snl -bso0 -psecret -mhe=on ../secret.7z .
7z a -snl -bso0 -mx=0 -v2k ../volume.7z .
mkdir ../bomb ../twelve
head -c 4M /dev/zero | tee ../bomb/a ../bomb/b >../bomb/c
(cd ../bomb && tar --owner=0 --group=0 -cf ../bomb.tar . && bzip2 -k ../bomb.tar && xz -k ../bomb.tar && 7z a -bso0 ../bomb.7z .)
(cd ../twelve && touch 1 2 3 4 5 6 7 8 9 10 11 12 && 7z a -bso0 ../twelve.7z .)
mv ../*.tar.?z* ../*.zip ../*.7z ../volume.7z.001 "$here"
cd "$here"
rm -rf "$w"
