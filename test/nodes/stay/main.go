// Command stay asks who it is, again and again, by one client of the SDK for Go, which renews its credentials as it sees fit. It writes a
// line each time: the ID of the token that it was given, its access key's ID, and its identity; or "error" and the error.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func main() {
	every := flag.Duration("every", time.Second, "how often to ask")
	early := flag.Duration("early", 0, "how long before their end credentials are renewed")
	session := flag.Duration("session", 0, "how long a session by a web identity is to be; 0: as the SDK wants")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = *early }),
		config.WithWebIdentityRoleCredentialOptions(func(o *stscreds.WebIdentityRoleOptions) { o.Duration = *session }))
	if err != nil {
		log.Fatal(err)
	}
	client := sts.NewFromConfig(cfg)
	for tick := time.Tick(*every); ctx.Err() == nil; <-tick {
		line, err := ask(context.WithoutCancel(ctx), client)
		if err != nil {
			line = fmt.Sprintf("error %q", err)
		}
		fmt.Println(line)
	}
}

func ask(ctx context.Context, client *sts.Client) (string, error) {
	token, err := tokenID() // before the call: what the call is made with may be younger
	if err != nil {
		return "", err
	}
	who, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", err
	}
	key, err := client.Options().Credentials.Retrieve(ctx)
	if err != nil {
		return "", err
	}
	return token + " " + key.AccessKeyID + " " + aws.ToString(who.Arn), nil
}

// tokenID reads the claim jti of the token in the file that the SDK reads.
func tokenID() (string, error) {
	file := os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE")
	if file == "" {
		file = os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	parts := strings.Split(string(token), ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("%s holds no token", file)
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	var claims struct {
		ID string `json:"jti"`
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return claims.ID, nil
}
