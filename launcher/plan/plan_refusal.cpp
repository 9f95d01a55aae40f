#include "launcher/plan/plan_refusal.h"

#include <array>
#include <optional>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "plan/memory_estimate.h"

namespace thimble {
namespace {

constexpr std::int64_t kShortestSequence = 128;

// A change of the job, and how it is written.
struct Edit {
  std::string text, cost;
  TrainSpec spec;
};

class Proposals {
 public:
  Proposals(const PlannedJob& planned, std::int64_t budget) : planned_(planned), budget_(budget) {}

  // Adds the edit if it fits, with the largest micro-batch that does; false if none does.
  bool consider(const Edit& edit) {
    const std::int64_t sequences = ceil_div(edit.spec.sequences_per_step, planned_.place.ranks);
    const auto& written = planned_.job.training.micro_batch_size.value;
    const std::optional<std::int64_t> micro = largest_micro(edit.spec, sequences);
    if (!micro) return false;
    // "auto" finds the micro-batch itself, and one that stays needs no edit.
    std::string text = edit.text;
    if (written && *written != *micro) {
      text += fmt::format("{}training.micro_batch_size = {}", text.empty() ? "" : ", ", *micro);
    }
    if (text.empty()) return false;
    const std::int64_t bytes = needed(edit.spec, *micro);
    if (bytes > budget_) return false;
    text_ += fmt::format("\n  fits: {}{}: {}", text, edit.cost, format_bytes(bytes));
    return true;
  }

  const std::string& text() const { return text_; }

  std::int64_t needed(const TrainSpec& spec, std::int64_t micro) const {
    const BatchPlan batch = cut_batch(spec.sequences_per_step, micro, planned_.place.ranks);
    return plan_memory(spec, batch, planned_.place).extent_bytes + overhead_bytes(spec.device);
  }

 private:
  bool fits(const TrainSpec& spec, std::int64_t micro) const {
    const BatchPlan batch = cut_batch(spec.sequences_per_step, micro, planned_.place.ranks);
    if (const auto estimate = estimate_memory(spec, batch, planned_.place)) {
      const Fit told = fit_of_estimate(*estimate, budget_ - overhead_bytes(spec.device));
      if (told != Fit::kUnsure) return told == Fit::kYes;
    }
    return needed(spec, micro) <= budget_;
  }

  // Not more than the job asks for, if it does.
  std::optional<std::int64_t> largest_micro(const TrainSpec& spec, std::int64_t sequences) const {
    const std::int64_t limit =
        std::min(sequences, planned_.job.training.micro_batch_size.value.value_or(sequences));
    if (fits(spec, limit)) return limit;
    if (limit == 1 || !fits(spec, 1)) return std::nullopt;
    std::int64_t good = 1, bad = limit;
    while (bad - good > 1) {
      const std::int64_t middle = good + (bad - good) / 2;
      (fits(spec, middle) ? good : bad) = middle;
    }
    return good;
  }

  const PlannedJob& planned_;
  std::int64_t budget_;
  std::string text_;
};

// A part that could be on disk beside the state.
struct PartOnDisk {
  const char *name, *cost;
  bool OffloadSpec::*member;
  int stage;  // that it needs on several ranks
};
constexpr std::array kPartsOnDisk{
    PartOnDisk{"gradients", " (the disk takes them as they come)", &OffloadSpec::gradients, 2},
    PartOnDisk{"weights", " (every pass reads them at the speed of the disk)",
               &OffloadSpec::weights, 3}};

void propose_on_disk(const PartOnDisk& part, const PlannedJob& planned, Proposals& proposals) {
  const TrainSpec& spec = planned.spec;
  if (spec.offload.*part.member || spec.offload.host_state) return;
  Edit edit{fmt::format("{}offload.{} = \"ssd\"",
                        spec.offload.state ? "" : "offload.state = \"ssd\", ", part.name),
            part.cost, spec};
  edit.spec.offload.state = edit.spec.offload.*part.member = true;
  if (planned.place.ranks > 1 && spec.engine.zero_stage < part.stage) {
    edit.text += fmt::format(", parallelism.zero_stage = {}", part.stage);
    edit.spec.engine.zero_stage = part.stage;
  }
  try {
    proposals.consider(edit);
  } catch (const UserError&) {
    // It stays in memory: weights of 8 bits, gradients that nobody keeps.
  }
}

void propose_host(const PlannedJob& planned, Proposals& proposals) {
  const TrainSpec& spec = planned.spec;
  if (!spec.offload.any_away() && spec.device == DeviceKind::kGpu) {
    Edit edit{"offload.state = \"host\"", " (updates at the speed of the bus and the CPU)", spec};
    edit.spec.offload.host_state = true;
    proposals.consider(edit);
  }
  if (!spec.offload.host_state || spec.offload.host_gradients || spec.engine.fused_backward) return;
  Edit edit{"offload.gradients = \"host\"", " (the bus takes them as they come)", spec};
  edit.spec.offload.host_gradients = true;
  if (planned.place.ranks > 1 && spec.engine.zero_stage < 2) {
    edit.text += ", parallelism.zero_stage = 2";
    edit.spec.engine.zero_stage = 2;
  }
  proposals.consider(edit);
}

constexpr std::string_view kFull = "memory.recompute = \"full\"";

void propose_edits(const PlannedJob& planned, Proposals& proposals) {
  const TrainSpec& spec = planned.spec;
  proposals.consider({"", " (about the same speed)", spec});
  for (int stage = spec.engine.zero_stage + 1; planned.place.ranks > 1 && stage <= 3; ++stage) {
    Edit edit{fmt::format("parallelism.zero_stage = {}", stage), "", spec};
    edit.spec.engine.zero_stage = stage;
    proposals.consider(edit);
  }
  propose_host(planned, proposals);
  if (!spec.offload.any_away()) {
    Edit edit{"offload.state = \"ssd\"", " (updates at the speed of the disk)", spec};
    edit.spec.offload.state = true;
    proposals.consider(edit);
  }
  for (const PartOnDisk& part : kPartsOnDisk) propose_on_disk(part, planned, proposals);
  const bool can_move = spec.device == DeviceKind::kCpu && !spec.any_activations;
  if (can_move && spec.offload.activations == ActivationPlace::kMemory) {
    Edit edit{"offload.activations = \"ssd\"", " (passes at the speed of the disk at least)", spec};
    edit.spec.offload.activations = ActivationPlace::kSsd;
    proposals.consider(edit);
  }
  if (spec.offload.state && spec.offload.cache_bytes > 0) {
    Edit edit{"offload.cache = \"auto\"", " (more is read from the disk)", spec};
    edit.spec.offload.cache_bytes = 0;
    proposals.consider(edit);
  }
  if (spec.engine.recompute == Recompute::kNone) {
    Edit edit{"memory.recompute = \"selective\"", " (about 3 % slower)", spec};
    edit.spec.engine.recompute = Recompute::kSelective;
    proposals.consider(edit);
  }
  const bool is_full = spec.engine.recompute == Recompute::kFull;
  Edit full{std::string(kFull), " (about 30 % slower)", spec};
  full.spec.engine.recompute = Recompute::kFull;
  full.spec.engine.recompute_share = 1;
  if (!is_full && proposals.consider(full)) return;
  const auto& step_tokens = planned.job.training.global_batch_tokens;
  for (std::int64_t seq_len = spec.engine.seq_len / 2; seq_len >= kShortestSequence; seq_len /= 2) {
    if (step_tokens && *step_tokens % seq_len != 0) continue;
    Edit edit{
        fmt::format("data.seq_len = {}{}{}", seq_len, is_full ? "" : ", ", is_full ? "" : kFull),
        "", full.spec};
    edit.spec.engine.seq_len = seq_len;
    if (step_tokens) edit.spec.sequences_per_step = *step_tokens / seq_len;
    if (proposals.consider(edit)) return;
  }
}

}  // namespace

void refuse_plan(const PlannedJob& planned, const MemoryReport& least, const Budget& budget) {
  const std::int64_t needed = least.extent_bytes + overhead_bytes(planned.spec.device);
  std::string text =
      fmt::format("the job needs {} and memory.budget allows {} ({}); nothing was started.",
                  format_bytes(needed), format_bytes(budget.bytes), budget.bound_by);
  Proposals proposals(planned, budget.bytes);
  propose_edits(planned, proposals);
  text += proposals.text();
  text += fmt::format("\n  or: memory.budget = \"{}MiB\" on a machine that has it",
                      ceil_div(needed, kMiB));
  TrainSpec full = planned.spec;
  full.engine.recompute = Recompute::kFull;
  full.engine.recompute_share = 1;
  const std::int64_t smallest = proposals.needed(full, 1);
  if (proposals.text().empty() && smallest < needed) {
    const bool fixed = planned.job.training.micro_batch_size.value.value_or(1) != 1;
    text +=
        fmt::format("; with {}{}: \"{}MiB\"", kFull,
                    fixed ? " and training.micro_batch_size = 1" : "", ceil_div(smallest, kMiB));
  }
  throw UserError(text);
}

}  // namespace thimble
