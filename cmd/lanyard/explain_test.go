package main

import (
	"slices"
	"testing"
)

func TestTheMostSpecificAssociationApplies(t *testing.T) {
	t.Parallel()
	// Each goes before all that follow; of two with as many literal characters the text decides, so that it is always the same one.
	order := []associationView{
		{Namespace: "web", ServiceAccount: "api"}, {Namespace: "web", ServiceAccount: "api*"}, {Namespace: "web", ServiceAccount: "*"},
		{Namespace: "we*", ServiceAccount: "api"}, {Namespace: "we*", ServiceAccount: "*"}, {Namespace: "w*", ServiceAccount: "api"},
		{Namespace: "*", ServiceAccount: "api"}, {Namespace: "*", ServiceAccount: "*pi"}, {Namespace: "*", ServiceAccount: "a*i"}, {Namespace: "*", ServiceAccount: "*"},
	}
	for i := range order {
		for j := range order {
			if got := moreSpecific(order[i], order[j]); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%s/%s before %s/%s: %d", order[i].Namespace, order[i].ServiceAccount, order[j].Namespace, order[j].ServiceAccount, got)
			}
		}
	}
	shuffled := slices.Clone(order)
	slices.Reverse(shuffled)
	if got := slices.MinFunc(shuffled, moreSpecific); got.Namespace != "web" || got.ServiceAccount != "api" {
		t.Errorf("got %+v", got)
	}
}
