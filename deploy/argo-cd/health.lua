-- Health of a Resilience, for Argo CD: resource.customizations.health.resilience.dev_Resilience in argocd-cm.
-- docs/gitops.md says which state gives which word.
local function condition(kind)
  for _, one in ipairs((obj.status or {}).conditions or {}) do
    if one.type == kind then return one end
  end
  return {}
end

local function says(status, message)
  return {status = status, message = message}
end

if (obj.status or {}).observedGeneration ~= obj.metadata.generation then
  return says("Progressing", "the operator has not seen this generation yet")
end
local stalled = condition("Stalled")
if stalled.status == "True" then
  return says("Degraded", stalled.reason .. ": " .. stalled.message)
end
local accepted = condition("Accepted")
local mode = obj.spec.mode or "Enforce"
if accepted.status == "True" and mode ~= "Enforce" then
  return says("Suspended", condition("Programmed").message or "")
end
local inEffect = condition("InEffect")
if inEffect.status == "False" then
  return says("Degraded", "InEffect: " .. inEffect.message)
end
local ready = condition("Ready")
if ready.status == "True" then
  return says("Healthy", condition("Programmed").message or "")
end
return says("Progressing", ready.message or "")
