// Package deploy has the chart that Lanyard is installed by, and renders it as Helm does: for the plain manifests, and for tests.
package deploy

import (
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

//go:embed all:chart
var files embed.FS

// Release is what the chart is rendered for.
type Release struct {
	Namespace string         // "lanyard" when empty
	Values    map[string]any // in place of those of values.yaml
	// Service is who manages the objects, for their labels; "Helm" when empty.
	Service string
	// Cluster is what templates look objects up in; nil for none.
	Cluster engine.ClientProvider
}

// Document is one object of a release.
type Document struct {
	Template string // the path of its template, below the chart's templates
	Text     string // YAML
	Object   runtime.Object
}

// Chart reads the chart.
func Chart() (*chart.Chart, error) {
	var all []*archive.BufferedFile
	err := fs.WalkDir(files, "chart", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		all = append(all, &archive.BufferedFile{Name: strings.TrimPrefix(name, "chart/"), Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	return loader.LoadFiles(all)
}

// Render returns the release's objects in the order of their templates' names, and its notes. Values that the schema or the templates refuse
// are an error, and so is an object that has a field which its kind does not have; of cert-manager's and of CustomResourceDefinitions
// the fields are not known.
func Render(r Release) (all []Document, notes string, err error) {
	c, err := Chart()
	if err != nil {
		return nil, "", err
	}
	if r.Namespace == "" {
		r.Namespace = "lanyard"
	}
	options := common.ReleaseOptions{Name: "lanyard", Namespace: r.Namespace, Revision: 1, IsInstall: true}
	values, err := util.ToRenderValues(c, r.Values, options, nil)
	if err != nil {
		return nil, "", err
	}
	if r.Service != "" {
		values["Release"].(map[string]any)["Service"] = r.Service
	}
	var rendered map[string]string
	if r.Cluster == nil {
		rendered, err = engine.Render(c, values)
	} else {
		rendered, err = engine.RenderWithClientProvider(c, values, r.Cluster)
	}
	if err != nil {
		return nil, "", err
	}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		template := strings.TrimPrefix(name, "lanyard/templates/")
		if template == "NOTES.txt" {
			notes = rendered[name]
			continue
		}
		objects, err := Decode(rendered[name])
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", template, err)
		}
		for _, d := range objects {
			d.Template = template
			all = append(all, d)
		}
	}
	return all, notes, nil
}

// Decode reads the objects of a manifest. A field that an object's kind does not have is an error.
func Decode(manifest string) (all []Document, err error) {
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for text := range strings.SplitSeq("\n"+manifest, "\n---\n") {
		text = strings.Trim(text, "\n") + "\n"
		u := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(text), &u.Object); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, text)
		}
		if len(u.Object) == 0 { // nothing but comments
			continue
		}
		var object runtime.Object
		switch group, _, _ := strings.Cut(u.GetAPIVersion(), "/"); group {
		case "cert-manager.io", "apiextensions.k8s.io": // of which client-go knows nothing
			object = u
		default:
			if object, _, err = strict.Decode([]byte(text), nil, nil); err != nil {
				return nil, fmt.Errorf("%w in\n%s", err, text)
			}
		}
		all = append(all, Document{Text: text, Object: object})
	}
	return all, nil
}
