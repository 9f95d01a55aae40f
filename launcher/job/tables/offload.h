// The keys of [offload]: members with their defaults, and beside them what each means, which values
// it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"
#include "train/offload_spec.h"

namespace thimble::job {

enum class StatePlace : std::uint8_t { kMemory, kHost, kSsd };
template <>
inline constexpr std::array kSpellings<StatePlace>{Spelling{StatePlace::kMemory, "memory"},
                                                   Spelling{StatePlace::kHost, "host"},
                                                   Spelling{StatePlace::kSsd, "ssd"}};
template <>
inline constexpr std::array kSpellings<ActivationPlace>{
    Spelling{ActivationPlace::kMemory, "memory"}, Spelling{ActivationPlace::kHost, "host"},
    Spelling{ActivationPlace::kSsd, "ssd"}};

struct OffloadConfig {
  Auto<StatePlace> state;
  Auto<StatePlace> weights, gradients;
  Auto<ActivationPlace> activations;
  std::optional<double> gpu_share;
  bool delayed_update = false;
  std::string path;
  std::vector<std::string> paths;
  std::int64_t slots = 2;
  AutoBytes window;
  AutoBytes cache;
  std::int64_t commit_steps = 1;
  bool any_file_system = false;
  bool operator==(const OffloadConfig&) const = default;
};

/// The lowest ZeRO stage at which each of several ranks has rows of its own of what is asked to be
/// on disk or on the host; 0: any.
inline std::int64_t least_stage(const OffloadConfig& offload) {
  if (offload.weights.value == StatePlace::kSsd) return 3;
  return offload.gradients.value.value_or(StatePlace::kMemory) == StatePlace::kMemory ? 0 : 2;
}

// What is where, and when it moves.
inline void visit_places(const FieldVisitor& visitor, OffloadConfig& offload) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "state",
         .doc =
             "Where master weights and the optimizer's state are between updates; host: with "
             "device = \"cuda\", in the memory of the machine; ssd: on disk; the results are the "
             "same to the bit; auto: the first of memory, host and ssd where the job fits",
         .value = choice(offload.state),
         .resume = ResumeClass::kContinues});
  visit({.name = "weights",
         .doc =
             "Where the weights are while nobody reads them; ssd: on disk beside the state, with "
             "the same results to the bit, so that at most two layers of a model are in memory; "
             "needs state = \"ssd\", and on several ranks parallelism.zero_stage = 3; not host; "
             "auto: in memory if the job fits with its state and gradients elsewhere",
         .value = choice(offload.weights),
         .resume = ResumeClass::kContinues});
  visit({.name = "gradients",
         .doc =
             "Where gradients wait for the update; ssd or host: beside the state, which needs to "
             "be in the same place, as the backward pass completes them, with the same results "
             "to the bit; on several ranks this needs parallelism.zero_stage = 2 or 3; not with "
             "fused_backward, which keeps none; auto: in memory if the job fits with its state "
             "elsewhere",
         .value = choice(offload.gradients),
         .resume = ResumeClass::kContinues});
  visit({.name = "activations",
         .doc = "Where what the backward pass needs of the forward pass is between the two; ssd: "
                "on disk; host: with device = \"cuda\", in the memory of the machine; the results "
                "are the same to the bit; auto: in memory if the job fits there, or as "
                "memory.recompute = "
                "\"auto\" finds it fastest",
         .value = choice(offload.activations),
         .resume = ResumeClass::kContinues});
  visit({.name = "gpu_share",
         .doc =
             "With state = \"host\": the share of the updates that the GPU computes while the CPU "
             "computes the others, where both can; default: the fastest by what both are measured "
             "to reach; the results are the same to the bit",
         .value = &offload.gpu_share,
         .range = kShare,
         .resume = ResumeClass::kContinues});
  visit({.name = "delayed_update",
         .doc = "Update each layer just before the next forward pass needs it, so that its state "
                "comes and goes meanwhile, with the same results to the bit; a crash may cost one "
                "step more; not with fused_backward",
         .value = &offload.delayed_update,
         .resume = ResumeClass::kContinues});
}

inline void visit_fields(const FieldVisitor& visitor, OffloadConfig& offload) {
  const auto visit = [&](Field field) { visitor(field); };
  visit_places(visitor, offload);
  visit({.name = "path",
         .doc = "Directory on a fast local disk for all of this; empty: the run's own directory",
         .value = &offload.path,
         .path = PathKind::kOutput,
         .resume = ResumeClass::kContinues});
  visit({.name = "paths",
         .doc = "Directories on several disks in place of path; each has a share of the state by "
                "what the disks are measured to move, and checkpoints are copies",
         .value = &offload.paths,
         .path = PathKind::kOutput,
         .resume = ResumeClass::kContinues});
  visit({.name = "slots",
         .doc = "Copies of the state on disk; 2: a step reads one and writes the other, so that a "
                "crash costs the step in progress at most; 1: half the space, changed in place, so "
                "that a crash during an update falls back to the last checkpoint",
         .value = &offload.slots,
         .range = {.min = 1, .max = 2},
         .resume = ResumeClass::kContinues});
  visit({.name = "window",
         .doc = "Memory that state moves through (of the GPU, for state on its host), and twice as "
                "much for activations; auto: an "
                "eighth of the state, 4 to 128 MiB, with delayed_update the state of a layer, up "
                "to 512 MiB, and 32 MiB for activations",
         .value = &offload.window,
         .range = at_least(65536),
         .resume = ResumeClass::kContinues});
  visit({.name = "cache",
         .doc = "Memory for state that is on disk and need not be read; auto: what the budget "
                "leaves, on a GPU none",
         .value = &offload.cache,
         .range = at_least(0),
         .resume = ResumeClass::kContinues});
  visit({.name = "commit_steps",
         .doc = "Steps from one commit of the state on disk to the next; more than 1: what is in "
                "memory is written less often, and a crash costs so many steps at most",
         .value = &offload.commit_steps,
         .range = at_least(1),
         .resume = ResumeClass::kContinues});
  visit({.name = "any_file_system",
         .doc = "Allow a path on a network or in memory (tmpfs)",
         .value = &offload.any_file_system,
         .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
