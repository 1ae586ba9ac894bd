// Command loop asks who it is, again and again, until it is told to end. Each time it loads the SDK's default configuration anew, and so
// asks for credentials anew. It writes a line each time: how long it took, and the identity or the error.
package main

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// pause is between two questions.
const pause = 50 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	for tick := time.Tick(pause); ctx.Err() == nil; <-tick {
		begun := time.Now()
		who, err := ask(context.WithoutCancel(ctx))
		took := time.Since(begun).Milliseconds()
		if err != nil {
			fmt.Printf("%d error %q\n", took, err)
			continue
		}
		fmt.Printf("%d is %s\n", took, who)
	}
	fmt.Println("0 end")
}

func ask(ctx context.Context) (string, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return "", err
	}
	who, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", err
	}
	return aws.ToString(who.Arn), nil
}
