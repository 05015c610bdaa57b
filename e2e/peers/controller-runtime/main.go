// An operator in Go that does the bench's job as its framework does it best: sixteen workers, no limit on the
// client, caches for everything that it compares with, an apply only where something differs, and no reconcile
// for its own status or for what it created. It writes what our operator writes, labels and status included, as the
// bare writer has learned it; the specs it makes itself. It knows nothing of Istio: no neighbours, no endpoints, no
// warnings, no events.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
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

// What is written for one policy, with @namespace@, @name@ and @uid@ in it.
type template struct{ Rule, Routes, Status string }

func read(file string) (made template, err error) {
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &made)
	}
	return made, err
}

func fill(text string, policy *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	text = strings.NewReplacer("@namespace@", policy.GetNamespace(), "@name@", policy.GetName(),
		"@uid@", string(policy.GetUID())).Replace(text)
	it := &unstructured.Unstructured{}
	return it, json.Unmarshal([]byte(text), &it.Object)
}

type reconciler struct {
	client.Client
	template template
}

type half struct {
	kind schema.GroupVersionKind
	text string
	spec object
}

func (r reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	policy := of(policies)
	if err := r.Get(ctx, request.NamespacedName, policy); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	for _, half := range []half{{rules, r.template.Rule, rule(policy)}, {routes, r.template.Routes, route(policy)}} {
		if err := r.apply(ctx, policy, half); err != nil {
			return ctrl.Result{}, err
		}
	}
	generation := policy.GetGeneration()
	if observed, _, _ := unstructured.NestedInt64(policy.Object, "status", "observedGeneration"); observed == generation {
		return ctrl.Result{}, nil
	}
	status, err := fill(r.template.Status, policy)
	if err != nil {
		return ctrl.Result{}, err
	}
	told := status.Object["status"].(object)
	told["observedGeneration"] = generation
	for _, condition := range told["conditions"].([]any) {
		condition.(object)["observedGeneration"] = generation
	}
	return ctrl.Result{}, r.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(status),
		client.FieldOwner(manager), client.ForceOwnership)
}

func (r reconciler) apply(ctx context.Context, policy *unstructured.Unstructured, half half) error {
	there := of(half.kind)
	err := r.Get(ctx, client.ObjectKeyFromObject(policy), there)
	if err != nil && !errors.IsNotFound(err) {
		return err
	}
	if err == nil && reflect.DeepEqual(there.Object["spec"], any(half.spec)) {
		return nil
	}
	wanted, err := fill(half.text, policy)
	if err != nil {
		return err
	}
	wanted.Object["spec"] = half.spec
	return r.Apply(ctx, client.ApplyConfigurationFromUnstructured(wanted), client.FieldOwner(manager), client.ForceOwnership)
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
	file := flag.String("template", "", "what is written for one policy")
	flag.Parse()
	logger.SetLogger(zap.New())
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	template, err := read(*file)
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
	// That a rule has come is the echo of its own apply; after a restart, policies are looked at in any case.
	told := predicate.Funcs{CreateFunc: func(event.CreateEvent) bool { return false }}
	err = ctrl.NewControllerManagedBy(mgr).Named(manager).
		For(of(policies), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(of(rules), builder.WithPredicates(told)).Owns(of(routes), builder.WithPredicates(told)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 16}).
		Complete(reconciler{mgr.GetClient(), template})
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
