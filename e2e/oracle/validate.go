package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"

	admission "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

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
	crds crds
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

func (v *validator) validate(object json.RawMessage) (verdict, error) {
	var read unstructured.Unstructured
	if err := read.UnmarshalJSON(object); err != nil {
		return verdict{}, fmt.Errorf("object: %w", err)
	}
	taken, faults, err := v.crds.take(&read)
	if err != nil {
		return verdict{}, err
	}
	response, err := v.admit(taken)
	if err != nil {
		return verdict{}, err
	}
	judged := verdict{CRD: faults}
	if !response.Allowed {
		judged.Webhook = []string{response.Result.Message}
	}
	judged.Warnings = response.Warnings
	judged.OK = len(judged.CRD) == 0 && response.Allowed
	return judged, nil
}

// admit asks the webhook as an API server does for a create.
func (v *validator) admit(object *unstructured.Unstructured) (*admission.AdmissionResponse, error) {
	written, err := object.MarshalJSON()
	if err != nil {
		return nil, err
	}
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
