# Everything is fetched from the Go module proxy; nothing else has to be installed.
GO      ?= go
TOOLS   := $(CURDIR)/tools/go.mod
LINT    := $(GO) tool -modfile=$(TOOLS) golangci-lint
# The race detector needs a C compiler; without one the tests run without it, and say so.
RACE    := $(shell command -v gcc >/dev/null 2>&1 && echo -race)
# The packages of both modules: the product, and e2e with its real etcd members.
MODULES := . e2e

# The commit goes into the binary where git can tell it, and otherwise not.
VCS     := $(shell git status >/dev/null 2>&1 && echo auto || echo false)

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/parallax, static
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(VCS) -o bin/parallax ./cmd/parallax

.PHONY: demo
demo: ## three real etcd members, one ordinary transaction, and the key named (KEEP=1 leaves it running)
	@echo "Building the demo, which builds the rest ..."
	@cd e2e && $(GO) build -o bin/demo ./demo && exec bin/demo $(if $(KEEP),--keep)

.PHONY: test
test: ## all tests; the first run builds etcd 3.5, 3.6 and 3.7 (some minutes)
	@$(if $(RACE),true,echo "no C compiler: the tests run without the race detector")
	$(GO) test $(RACE) ./...
	cd e2e && $(GO) run ./cmd/build
	cd e2e && $(GO) test $(RACE) -p 1 -timeout 20m ./... # one package at a time: etcd members of several would starve one another

.PHONY: bench
bench: ## what relaying costs, beside every peer (half an hour; leave the machine alone)
	cd e2e && $(GO) build -o bin/bench ./bench && exec bin/bench -json bin/bench.json -markdown bin/bench.md

.PHONY: track-record
track-record: ## real bugs with real etcd members: each named, each control silent (ROUNDS=20, ONLY=18667)
	cd e2e && $(GO) build -o bin/track-record ./trackrecord && exec bin/track-record -markdown bin/track-record.md $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(ONLY),-only $(ONLY))

.PHONY: lint
lint: ## tidy, vet and golangci-lint, both modules
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(GO) mod tidy -diff && $(GO) vet ./... && $(LINT) run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

.PHONY: fmt
fmt: ## format all Go files
	@for m in $(MODULES); do (cd $$m && $(GO) fmt ./...) || exit 1; done
