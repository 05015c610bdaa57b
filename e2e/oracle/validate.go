package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	admission "k8s.io/api/admission/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"

	"istio.io/istio/manifests"
	"istio.io/istio/pkg/config/crd"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/webhooks/validation/server"
)

// verdict of an object: refused by nobody is accepted.
type verdict struct {
	OK bool `json:"ok"`
	// CRD: what the API server refuses by the schema of the kind (structure, CEL, unknown fields, as with
	// fieldValidation=Strict and with server-side apply) and by the rules of names and labels.
	CRD []string `json:"crd,omitempty"`
	// Webhook: what istiod's admission webhook refuses. On a real install it is asked only when the CRD
	// refuses nothing.
	Webhook []string `json:"webhook,omitempty"`
	// Warnings: what the webhook says beside its consent.
	Warnings []string `json:"warnings,omitempty"`
}

// validator holds both layers as they stand in front of a real install's storage.
type validator struct {
	crds *crd.Validator
	// webhook is istiod's own HTTP handler, called in this process.
	webhook *http.ServeMux
}

func newValidator() (*validator, error) {
	crds, err := istioCRDs()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	// As istiod sets it up (pilot/pkg/bootstrap/validation.go).
	_, err = server.New(server.Options{Schemas: collections.PilotGatewayAPI(), DomainSuffix: domain, Mux: mux})
	return &validator{crds, mux}, err
}

// istioCRDs reads the CRDs of the base chart, of the kinds that are asked about.
func istioCRDs() (*crd.Validator, error) {
	file, err := manifests.FS.Open("charts/base/files/crd-all.gen.yaml")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	kinds := map[string]bool{"DestinationRule": true, "VirtualService": true, "Sidecar": true, "ServiceEntry": true}
	var found []apiextensions.CustomResourceDefinition
	documents := yaml.NewYAMLOrJSONDecoder(file, 1<<20)
	for {
		var read apiextensionsv1.CustomResourceDefinition
		if err := documents.Decode(&read); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("the CRDs of the base chart: %w", err)
		}
		if !kinds[read.Spec.Names.Kind] {
			continue
		}
		var one apiextensions.CustomResourceDefinition
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&read, &one, nil); err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	if len(found) != len(kinds) {
		return nil, fmt.Errorf("the base chart has %d of the %d CRDs looked for", len(found), len(kinds))
	}
	return crd.NewValidatorFromCRDsWithOptions(found, crd.WithoutCRDValidation())
}

func (v *validator) validate(object json.RawMessage) (verdict, error) {
	var read unstructured.Unstructured
	if err := read.UnmarshalJSON(object); err != nil {
		return verdict{}, fmt.Errorf("object: %w", err)
	}
	// What an API server writes is not what it read: 1.0 for an integer goes on as 1.
	written, err := read.MarshalJSON()
	if err != nil {
		return verdict{}, err
	}
	var judged verdict
	if err := v.crds.ValidateCustomResource(&read); err != nil {
		judged.CRD = append(judged.CRD, err.Error())
	}
	path := field.NewPath("metadata")
	for _, fault := range apivalidation.ValidateObjectMetaAccessor(&read, true, apivalidation.NameIsDNSSubdomain, path) {
		judged.CRD = append(judged.CRD, fault.Error())
	}
	response, err := v.admit(&read, written)
	if err != nil {
		return verdict{}, err
	}
	if !response.Allowed {
		judged.Webhook = []string{response.Result.Message}
	}
	judged.Warnings = response.Warnings
	judged.OK = len(judged.CRD) == 0 && response.Allowed
	return judged, nil
}

// admit asks the webhook as an API server does for a create.
func (v *validator) admit(object *unstructured.Unstructured, written []byte) (*admission.AdmissionResponse, error) {
	kind := object.GroupVersionKind()
	review := admission.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admission.AdmissionRequest{
			UID:       "1",
			Kind:      metav1.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind},
			Namespace: object.GetNamespace(),
			Name:      object.GetName(),
			Operation: admission.Create,
			Object:    runtime.RawExtension{Raw: written},
		},
	}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	request := httptest.NewRequest(http.MethodPost, "/validate", bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	v.webhook.ServeHTTP(answer, request)
	var answered admission.AdmissionReview
	if err := json.Unmarshal(answer.Body.Bytes(), &answered); err != nil || answered.Response == nil {
		return nil, fmt.Errorf("the webhook answers %d %s", answer.Code, answer.Body)
	}
	return answered.Response, nil
}
