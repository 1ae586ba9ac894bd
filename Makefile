.DEFAULT_GOAL := help
GO ?= go

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the programs into bin/
	$(GO) build -o bin/ ./cmd/...

demo: build ## Show both ways at work, checked step by step
	bin/lanyard demo

test: ## Run the tests that need nothing but Go
	$(GO) test -race -timeout 20m ./...
	GO=$(GO) test/coverage.sh

e2e: ## Run the tests with the other languages' clients and real Kubernetes, which are installed into .cache/ (ten minutes, once)
	test/clients/install.sh .cache/clients
	test/postgres/install.sh .cache/postgres
	$(GO) run ./test/kubenode/cluster build
	$(GO) run ./deploy/image/build -arch $$($(GO) env GOARCH) -out .cache/images
	$(GO) test -race -tags e2e -timeout 1h -count=1 -p 1 ./test ./test/kubenode

cluster: ## Run a Kubernetes cluster of one node until Ctrl-C, in namespaces of its own (Linux, root)
	$(GO) build -o .cache/kubenode/bin/ ./test/kubenode/cluster
	.cache/kubenode/bin/cluster up

images: ## Write the images into bin/images (IMAGEFLAGS='-registry ghcr.io/me -tag 1.0 -arch amd64,arm64')
	$(GO) run ./deploy/image/build $(IMAGEFLAGS)

lint: ## Check the formatting and run the linters
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	$(GO) vet -tags e2e ./...
	$(GO) tool staticcheck -tags e2e ./...

manifests: ## Write deploy/manifests from the chart
	$(GO) test -run '^TestManifestsAreThoseOfTheChart$$' ./deploy -update

bench: ## Print what requests and decisions cost, as ratios to bare handlers and to Cedar, and what memory, starts and replication do
	$(GO) test -run '^$$' -bench . -benchtime 2s -count 1 ./test
	$(GO) test -tags e2e -run '^$$' -bench Admission -benchtime 3x -count 1 ./test
	$(GO) test -run '^$$' -bench . ./policy
	$(GO) test -C test/cedar -bench . -benchtime 2s .

fuzz: ## Fuzz every parser that meets strangers, 30 s each (FUZZTIME=10s FUZZPKG=./policy for less)
	GO=$(GO) test/fuzz.sh $(or $(FUZZTIME),30s) $(FUZZPKG)

clean: ## Remove what was built and cached
	rm -rf bin .cache

.PHONY: help build demo test e2e cluster images lint manifests bench fuzz clean
