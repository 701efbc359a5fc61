# kubarium: make help lists the targets.
GO          ?= go
GO_WANTED   := $(shell sed -n 's/^go //p' go.mod)
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
KUBECTL     := $(shell sed -n 's/.*k8s.io\/kubectl v0/v1/p' go.mod)
LDFLAGS     := -s -w -X kubarium.dev/cmd/kubarium/cli.Version=$(VERSION) -X k8s.io/component-base/version.gitVersion=$(KUBECTL)
LINT        := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
export CGO_ENABLED := 0
# One set of flags for everything, so that nothing is compiled twice. The program is stripped: without DWARF it compiles in 15 % less time.
export GOFLAGS := -trimpath -gcflags=all=-dwarf=false
export GOTOOLCHAIN := local

.PHONY: help go build demo test check lint bench fuzz soak deps clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

go: # one line when Go is missing or too old
	@command -v $(GO) >/dev/null || { echo "kubarium needs Go $(GO_WANTED) or newer; no go was found in PATH (apt: golang; or go.dev/dl)" >&2; exit 5; }
	@have=$$($(GO) env GOVERSION | sed 's/^go//'); \
	[ "$$(printf '%s\n%s\n' "$(GO_WANTED)" "$$have" | sort -V | head -n 1)" = "$(GO_WANTED)" ] || \
	{ echo "kubarium needs Go $(GO_WANTED) or newer; this is Go $$have" >&2; exit 5; }

build: go ## build bin/kubarium, static and stripped
	@$(GO) build -ldflags '$(LDFLAGS)' -o bin/kubarium ./cmd/kubarium

demo: build deps ## build, boot a cluster and tell its story; exit 0 only if every claim held
	@$(GO) run ./cmd/demo -bin bin/kubarium

test: go deps ## every test, with real namespaces and packets
	@$(GO) test ./...

check: lint deps ## what must hold before a commit: formatting, vet, lint, the oldest kubectl
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	@$(GO) vet ./... && $(GO) vet -tags soak ./store ./cluster ./cmd/...
	@$(GO) test -tags soak -run TestSoakOlderKubectls/1.34 -count 1 ./cmd/kubarium/cli

lint: go ## golangci-lint with .golangci.yml
	@$(GO) run $(LINT) run ./...

bench: go deps ## the figures of the README, measured here
	@$(GO) test -run '^$$' -bench . -benchtime 10x ./cluster/bench
	@command -v dnsperf >/dev/null || { echo "for the figures of DNS please install:  apt-get install dnsperf" >&2; exit 5; }
	@$(GO) test -run '^$$' -bench Dnsperf -benchtime 5x ./dns

fuzz: go ## every fuzzer for 30 s
	@for t in $$(grep -rhoE '^func Fuzz[A-Za-z]+' --include='*_test.go' . | awk '{print $$2}'); do \
	  p=$$(grep -rlE "^func $$t\(" --include='*_test.go' . | xargs dirname); \
	  echo "$$p $$t"; $(GO) test -run '^$$' -fuzz "^$$t$$" -fuzztime 30s $$p || exit 1; done

SOAK ?= 10m
soak: go deps ## what is too long for CI (SOAK=10m); the last result is docs/soak.md
	@$(GO) test -tags soak -run Soak -count 1 -timeout 0 -v ./cluster -soak $(SOAK)
	@$(GO) test -tags soak -run Soak -count 1 -timeout 0 -v ./store ./cmd/kubarium/cli

deps: ## install what the machine lacks (apt, as root)
	@missing=; for c in curl:curl nft:nftables ip:iproute2 conntrack:conntrack iptables-restore:iptables; do \
	  command -v $${c%%:*} >/dev/null || PATH=$$PATH:/usr/sbin:/sbin command -v $${c%%:*} >/dev/null || missing="$$missing $${c##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then echo "installing$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	  else echo "please install, as root:  apt-get install$$missing" >&2; exit 5; fi; fi

clean: ## remove what was built
	@rm -rf bin
