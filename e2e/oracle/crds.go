package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"istio.io/istio/manifests"
)

// kinds whose CRDs are read.
var kinds = []string{"DestinationRule", "VirtualService", "Sidecar", "ServiceEntry"}

// crds are the schemas of the base chart, by kind and version, as an API server runs them.
type crds map[schema.GroupVersionKind]customResource

type customResource struct {
	openAPI    schemavalidation.SchemaCreateValidator
	structural *structural.Structural
	cel        *cel.Validator
}

func istioCRDs() (crds, error) {
	file, err := manifests.FS.Open("charts/base/files/crd-all.gen.yaml")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	found := crds{}
	documents := yaml.NewYAMLOrJSONDecoder(file, 1<<20)
	for {
		var read apiextensionsv1.CustomResourceDefinition
		if err := documents.Decode(&read); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, fmt.Errorf("the CRDs of the base chart: %w", err)
		}
		if !slices.Contains(kinds, read.Spec.Names.Kind) {
			continue
		}
		if err := found.add(&read); err != nil {
			return nil, fmt.Errorf("the CRD %s: %w", read.Name, err)
		}
	}
}

func (c crds) add(read *apiextensionsv1.CustomResourceDefinition) error {
	for _, version := range read.Spec.Versions {
		var props apiextensions.JSONSchemaProps
		given := version.Schema.OpenAPIV3Schema
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(given, &props, nil); err != nil {
			return err
		}
		openAPI, _, err := schemavalidation.NewSchemaValidator(&props)
		if err != nil {
			return err
		}
		shape, err := structural.NewStructural(&props)
		if err != nil {
			return err
		}
		kind := schema.GroupVersionKind{Group: read.Spec.Group, Version: version.Name, Kind: read.Spec.Names.Kind}
		c[kind] = customResource{openAPI, shape, cel.NewValidator(shape, true, celconfig.PerCallLimit)}
	}
	return nil
}

// take does what an API server does with a create under fieldValidation=Strict (whose refusals are also
// those of server-side apply) before it asks any webhook: gives what the webhooks are sent, and every fault.
func (c crds) take(object *unstructured.Unstructured) (*unstructured.Unstructured, []string, error) {
	resource, known := c[object.GroupVersionKind()]
	if !known {
		return nil, nil, fmt.Errorf("no CRD of Istio's is read for %s", object.GroupVersionKind())
	}
	path := field.NewPath("metadata")
	faults := apivalidation.ValidateObjectMetaAccessor(object, true, apivalidation.NameIsDNSSubdomain, path)
	taken := object.DeepCopy()
	content := taken.Object
	strict := structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, unknown := range pruning.PruneWithOptions(content, resource.structural, true, strict) {
		faults = append(faults, field.Forbidden(field.NewPath(unknown), "unknown field"))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(content, resource.structural)
	defaulting.Default(content, resource.structural)
	faults = append(faults, schemavalidation.ValidateCustomResource(nil, content, resource.openAPI)...)
	faults = append(faults, listtype.ValidateListSetsAndMaps(nil, resource.structural, content)...)
	if resource.cel != nil {
		found, _ := resource.cel.Validate(context.Background(), nil, resource.structural, content, nil, celconfig.RuntimeCELCostBudget)
		faults = append(faults, found...)
	}
	texts := make([]string, 0, len(faults))
	for _, fault := range faults {
		texts = append(texts, fault.Error())
	}
	return taken, texts, nil
}
