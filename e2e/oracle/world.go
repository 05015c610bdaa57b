package main

import (
	"encoding/json"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/config/memory"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/serviceregistry"
	"istio.io/istio/pilot/pkg/serviceregistry/aggregate"
	kuberegistry "istio.io/istio/pilot/pkg/serviceregistry/kube"
	memregistry "istio.io/istio/pilot/pkg/serviceregistry/memory"
	"istio.io/istio/pilot/pkg/serviceregistry/provider"
	"istio.io/istio/pilot/pkg/serviceregistry/serviceentry"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/mesh/meshwatcher"
	"istio.io/istio/pkg/config/schema/collection"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/gvk"
	"istio.io/istio/pkg/config/schema/resource"
	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/kube/multicluster"
)

const (
	domain       = "cluster.local"
	cluster      = "Kubernetes"
	proxyVersion = "1.31.0"
)

// schemas are the kinds that a world may hold besides Services and Namespaces.
var schemas = collection.SchemasFor(
	collections.DestinationRule, collections.VirtualService, collections.Sidecar,
	collections.ServiceEntry, collections.WorkloadEntry,
)

// world is what istiod would have read of a cluster. Objects are not validated: the API server has done it.
//
// Istio's caches are made to live as long as istiod: of each world with ServiceEntries about a megabyte
// stays, so whoever asks about thousands of them starts another oracle now and then.
type world struct {
	// Mesh is a MeshConfig, as far as it differs from the defaults.
	Mesh json.RawMessage `json:"mesh"`
	// Objects are Namespaces, Services, ServiceEntries, WorkloadEntries, DestinationRules, VirtualServices
	// and Sidecars. metadata.creationTimestamp counts where Istio asks who is older.
	Objects []json.RawMessage `json:"objects"`
}

// build gives an environment that has read the whole world, and what ends it.
func (w world) build() (*model.Environment, func(), error) {
	settings, err := mesh.ApplyMeshConfigDefaults(string(w.Mesh))
	if err != nil {
		return nil, nil, fmt.Errorf("mesh: %w", err)
	}
	read, err := w.read()
	if err != nil {
		return nil, nil, err
	}
	store := memory.NewController(memory.MakeSkipValidation(schemas))
	for _, one := range read.configs {
		if _, err := store.Create(one); err != nil {
			return nil, nil, fmt.Errorf("%s %s/%s: %w", one.GroupVersionKind.Kind, one.Namespace, one.Name, err)
		}
	}
	environment := model.NewEnvironment()
	environment.Watcher = meshwatcher.NewTestWatcher(settings)
	environment.NetworksWatcher = meshwatcher.NewFixedNetworksWatcher(nil)
	environment.ConfigStore = store
	updater := model.NewEndpointIndexUpdater(environment.EndpointIndex)
	virtualServices := model.NewVirtualServiceController(store, model.VSControllerOptions{XDSUpdater: updater}, environment.Watcher)
	environment.VirtualServiceController = virtualServices

	stop := make(chan struct{})
	registries := aggregate.NewController(aggregate.Options{ConfigClusterID: cluster})
	services := make([]*model.Service, 0, len(read.services))
	for _, one := range read.services {
		annotations := read.namespaces[one.Namespace].Annotations
		services = append(services, kuberegistry.ConvertService(one, annotations, domain, cluster, settings.TrustDomain))
	}
	discovery := memregistry.NewServiceDiscovery(services...)
	discovery.ClusterID = cluster
	registries.AddRegistry(serviceregistry.Simple{ProviderID: provider.Kubernetes, ClusterID: cluster, DiscoveryController: discovery})
	if read.hasEntries {
		clusters, err := read.clusters(environment, stop)
		if err != nil {
			close(stop)
			return nil, nil, err
		}
		entries := serviceentry.NewController(store, updater, clusters, environment.Watcher, serviceentry.WithClusterID(cluster))
		registries.AddRegistry(entries)
	}
	environment.ServiceDiscovery = registries
	environment.Init()

	go registries.Run(stop)
	go store.Run(stop)
	go virtualServices.Run(stop)
	for !store.HasSynced() || !registries.HasSynced() || !virtualServices.HasSynced() {
		time.Sleep(100 * time.Microsecond)
	}
	if err := environment.InitNetworksManager(updater); err != nil {
		close(stop)
		return nil, nil, err
	}
	return environment, func() { close(stop) }, nil
}

// objects of a world, by what reads them.
type objects struct {
	configs    []config.Config
	services   []core.Service
	namespaces map[string]core.Namespace
	hasEntries bool
}

func (w world) read() (objects, error) {
	read := objects{namespaces: map[string]core.Namespace{}}
	for index, text := range w.Objects {
		if err := read.add(text); err != nil {
			return objects{}, fmt.Errorf("objects[%d]: %w", index, err)
		}
	}
	return read, nil
}

func (o *objects) add(text json.RawMessage) error {
	var kind metav1.TypeMeta
	if err := json.Unmarshal(text, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "Namespace":
		var one core.Namespace
		err := json.Unmarshal(text, &one)
		o.namespaces[one.Name] = one
		return err
	case "Service":
		var one core.Service
		err := json.Unmarshal(text, &one)
		o.services = append(o.services, one)
		return err
	}
	var one crd.IstioKind
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	name := one.GroupVersionKind()
	schema, known := schemas.FindByGroupKind(resource.FromKubernetesGVK(&name))
	if !known {
		return fmt.Errorf("a world holds no %s", name)
	}
	converted, err := crd.ConvertObject(schema, &one, domain)
	if err != nil {
		return err
	}
	o.configs = append(o.configs, *converted)
	o.hasEntries = o.hasEntries || converted.GroupVersionKind == gvk.ServiceEntry
	return nil
}

// clusters is this one cluster, of which ServiceEntries are told the Namespaces.
func (o *objects) clusters(environment *model.Environment, stop chan struct{}) (*multicluster.Controller, error) {
	var known []runtime.Object
	for _, one := range o.namespaces {
		known = append(known, one.DeepCopy())
	}
	client := kube.NewFakeClient(known...)
	clusters := multicluster.NewController(multicluster.ControllerOptions{
		Client:          client,
		ClusterID:       cluster,
		SystemNamespace: environment.Mesh().RootNamespace,
		MeshConfig:      environment.Watcher,
	})
	if err := clusters.Run(stop); err != nil {
		return nil, err
	}
	client.RunAndWait(stop)
	return clusters, nil
}
