package eks

import (
	"context"
	"slices"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// platformVersion is what clusters and versions carry: the first platform of each Kubernetes version.
const platformVersion = "eks.1"

// clusterVersion is a version of Kubernetes that EKS has (EKS User Guide, "Understand the Kubernetes version lifecycle
// on EKS").
type clusterVersion struct {
	version  string
	released time.Time
	standard time.Time // end of standard support
	extended time.Time // end of extended support
}

// clusterVersions returns the versions, newest first. The first is the default.
func clusterVersions() []clusterVersion {
	day := func(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }
	return []clusterVersion{
		{"1.35", day(2026, 1, 27), day(2027, 3, 27), day(2028, 3, 27)},
		{"1.34", day(2025, 10, 2), day(2026, 12, 2), day(2027, 12, 2)},
		{"1.33", day(2025, 5, 29), day(2026, 7, 29), day(2027, 7, 29)},
		{"1.32", day(2025, 1, 23), day(2026, 3, 23), day(2027, 3, 23)},
		{"1.31", day(2024, 9, 26), day(2025, 11, 26), day(2026, 11, 26)},
	}
}

func defaultVersion() string { return clusterVersions()[0].version }

// status says how a version is supported. The default one always has standard support, because eksctl does not survive
// an answer without a supported version.
func (v clusterVersion) status(now time.Time) string {
	switch {
	case v.version == defaultVersion() || now.Before(v.standard):
		return "STANDARD_SUPPORT"
	case now.Before(v.extended):
		return "EXTENDED_SUPPORT"
	}
	return "UNSUPPORTED"
}

// oldStatus is the name of a status in the member that versionStatus has replaced.
func oldStatus(status string) string {
	switch status {
	case "STANDARD_SUPPORT":
		return "standard-support"
	case "EXTENDED_SUPPORT":
		return "extended-support"
	}
	return "unsupported"
}

type describeClusterVersionsIn struct {
	ClusterType     string
	ClusterVersions []string
	DefaultOnly     bool
	IncludeAll      bool
	MaxResults      int32
	NextToken       string
	Status          string
	VersionStatus   string
}

type describeClusterVersionsOut struct {
	ClusterVersions []clusterVersionShape
	NextToken       string
}

type clusterVersionShape struct {
	ClusterType              string
	ClusterVersion           string
	DefaultPlatformVersion   string
	DefaultVersion           bool
	EndOfExtendedSupportDate time.Time
	EndOfStandardSupportDate time.Time
	ReleaseDate              time.Time
	Status                   string
	VersionStatus            string
}

func describeClusterVersionsAccess(*awsapi.Caller, *describeClusterVersionsIn) ([]awsapi.Access, error) {
	return []awsapi.Access{{Action: "eks:DescribeClusterVersions", Resource: "*"}}, nil
}

func (s *Service) describeClusterVersions(
	_ context.Context, _ *awsapi.Caller, in *describeClusterVersionsIn,
) (*describeClusterVersionsOut, error) {
	if in.ClusterType != "" && in.ClusterType != "eks" {
		return nil, invalidParameter("The clusterType %q is not known; the only one is eks.", in.ClusterType)
	}
	after, err := readPageToken(in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &describeClusterVersionsOut{ClusterVersions: []clusterVersionShape{}}
	now := s.now()
	skip := after != ""
	for _, v := range clusterVersions() {
		if skip {
			skip = v.version != after
			continue
		}
		status := v.status(now)
		wanted := true
		switch {
		case in.DefaultOnly:
			wanted = v.version == defaultVersion()
		case len(in.ClusterVersions) > 0:
			wanted = slices.Contains(in.ClusterVersions, v.version)
		case in.VersionStatus == "" && in.Status == "" && !in.IncludeAll:
			wanted = status != "UNSUPPORTED"
		}
		wanted = wanted && (in.VersionStatus == "" || in.VersionStatus == status) && (in.Status == "" || in.Status == oldStatus(status))
		if !wanted {
			continue
		}
		if len(out.ClusterVersions) == pageSize(in.MaxResults) {
			out.NextToken = pageToken(out.ClusterVersions[len(out.ClusterVersions)-1].ClusterVersion)
			break
		}
		out.ClusterVersions = append(out.ClusterVersions, clusterVersionShape{
			ClusterType:              "eks",
			ClusterVersion:           v.version,
			DefaultPlatformVersion:   platformVersion,
			DefaultVersion:           v.version == defaultVersion(),
			EndOfExtendedSupportDate: v.extended,
			EndOfStandardSupportDate: v.standard,
			ReleaseDate:              v.released,
			Status:                   oldStatus(status),
			VersionStatus:            status,
		})
	}
	return out, nil
}
