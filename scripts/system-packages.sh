#!/bin/sh
# Install what the tests can use from Debian: a browser and Fashion-MNIST. Never fails: tests that lack it are skipped.
wanted=""
command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || wanted="$wanted chromium"
[ -d /usr/share/datasets/fashion-mnist ] || wanted="$wanted dataset-fashion-mnist"
[ -z "$wanted" ] && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  (apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted) >/tmp/lessen-apt.log 2>&1 \
    || echo "could not install:$wanted (see /tmp/lessen-apt.log); the tests that need it will be skipped"
else
  echo "not installed:$wanted; the tests that need it will be skipped"
fi
exit 0
