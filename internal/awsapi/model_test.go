package awsapi_test

import (
	"testing"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

func TestModelsCompile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sts", "iam", "eks", "eks-auth", "cloudformation", "cloudtrail", "lanyard"} {
		first := awsapi.ModelNamed(name)
		if again := awsapi.ModelNamed(name); again != first {
			t.Errorf("the model %s is compiled twice", name)
		}
	}
}

func TestModelNamedPanicsForOthers(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a model that does not exist was found")
		}
	}()
	awsapi.ModelNamed("dynamodb")
}
