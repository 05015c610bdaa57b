// An operator in Go that does the bench's job as its framework does it best: sixteen workers, no limit on the
// client, caches for everything that it compares with, an apply only where something differs, and no reconcile
// for its own status. It knows nothing of Istio: no neighbours, no endpoints, no warnings, no events.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"reflect"

	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	logger "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

const manager = "peer"

var (
	policies = schema.GroupVersionKind{Group: "resilience.dev", Version: "v1alpha1", Kind: "Resilience"}
	rules    = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "DestinationRule"}
	routes   = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"}
)

type object = map[string]any

func of(kind schema.GroupVersionKind) *unstructured.Unstructured {
	it := &unstructured.Unstructured{}
	it.SetGroupVersionKind(kind)
	return it
}

type reconciler struct{ client.Client }

func (r reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	policy := of(policies)
	if err := r.Get(ctx, request.NamespacedName, policy); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	for kind, spec := range map[schema.GroupVersionKind]object{rules: rule(policy), routes: route(policy)} {
		if err := r.apply(ctx, policy, kind, spec); err != nil {
			return ctrl.Result{}, err
		}
	}
	generation := policy.GetGeneration()
	if observed, _, _ := unstructured.NestedInt64(policy.Object, "status", "observedGeneration"); observed == generation {
		return ctrl.Result{}, nil
	}
	condition := func(kind string) any {
		return object{"type": kind, "status": "True", "reason": "Applied", "message": "applied",
			"observedGeneration": generation, "lastTransitionTime": policy.GetCreationTimestamp().UTC().Format("2006-01-02T15:04:05Z")}
	}
	status := named(policies, policy)
	status.Object["status"] = object{"observedGeneration": generation,
		"conditions": []any{condition("Accepted"), condition("Programmed"), condition("Ready")}}
	return ctrl.Result{}, r.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(status),
		client.FieldOwner(manager), client.ForceOwnership)
}

func (r reconciler) apply(ctx context.Context, policy *unstructured.Unstructured, kind schema.GroupVersionKind, spec object) error {
	there := of(kind)
	err := r.Get(ctx, client.ObjectKeyFromObject(policy), there)
	if err != nil && !errors.IsNotFound(err) {
		return err
	}
	if err == nil && reflect.DeepEqual(there.Object["spec"], any(spec)) {
		return nil
	}
	wanted := named(kind, policy)
	wanted.Object["metadata"].(object)["ownerReferences"] = []any{object{
		"apiVersion": policies.GroupVersion().String(), "kind": policies.Kind, "name": policy.GetName(),
		"uid": string(policy.GetUID()), "controller": true, "blockOwnerDeletion": true,
	}}
	wanted.Object["spec"] = spec
	return r.Apply(ctx, client.ApplyConfigurationFromUnstructured(wanted), client.FieldOwner(manager), client.ForceOwnership)
}

func named(kind schema.GroupVersionKind, policy *unstructured.Unstructured) *unstructured.Unstructured {
	it := of(kind)
	it.Object["metadata"] = object{"name": policy.GetName(), "namespace": policy.GetNamespace()}
	return it
}

func host(policy *unstructured.Unstructured) string {
	return fmt.Sprintf("%s.%s.svc.cluster.local", policy.GetName(), policy.GetNamespace())
}

func field(policy *unstructured.Unstructured, path ...string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(policy.Object, append([]string{"spec"}, path...)...)
	return value
}

func rule(policy *unstructured.Unstructured) object {
	return object{"host": host(policy), "trafficPolicy": object{
		"connectionPool": object{"tcp": object{"connectTimeout": field(policy, "timeouts", "connect")}},
		"outlierDetection": object{
			"consecutive5xxErrors":     field(policy, "ejection", "consecutive5xx"),
			"consecutiveGatewayErrors": field(policy, "ejection", "consecutiveGateway"),
			"interval":                 field(policy, "ejection", "interval"),
			"baseEjectionTime":         field(policy, "ejection", "baseTime"),
			"maxEjectionPercent":       field(policy, "ejection", "maxPercent"),
			"minHealthPercent":         field(policy, "ejection", "minHealthyPercent"),
		},
	}}
}

func route(policy *unstructured.Unstructured) object {
	port := object{"number": int64(80)}
	return object{"hosts": []any{host(policy)}, "http": []any{object{
		"name": "port-80", "match": []any{object{"port": int64(80)}},
		"route":   []any{object{"destination": object{"host": host(policy), "port": port}}},
		"timeout": field(policy, "timeouts", "request"),
		"retries": object{"attempts": field(policy, "retries", "attempts"), "retryOn": "connect-failure,refused-stream"},
	}}}
}

func run() error {
	// Defines --kubeconfig, which the bench gives.
	flag.Parse()
	logger.SetLogger(zap.New())
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	config.QPS = -1
	mgr, err := ctrl.NewManager(config, ctrl.Options{Scheme: runtime.NewScheme(),
		Client:  client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		Metrics: server.Options{BindAddress: "0"}})
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(mgr).Named(manager).
		For(of(policies), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(of(rules)).Owns(of(routes)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 16}).
		Complete(reconciler{mgr.GetClient()})
	if err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
