#include "launcher/commands/job_arguments.h"

#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>

#include "compress/kvc_file.h"
#include "launcher/job/load_job.h"
#include "launcher/trainer/samples.h"
#include "models/adapter_export.h"
#include "train/compressor_parts.h"

namespace thimble {

void add_job_arguments(CLI::App& app, JobArguments& arguments) {
  app.add_option("job", arguments.file, "Job file (TOML); `thimble help job` lists its keys")
      ->required();
  app.add_option("--set", arguments.sets, "Override a key: --set optimizer.lr=1e-4 (repeatable)")
      ->allow_extra_args(false);
}

job::JobConfig load_job_arguments(const JobArguments& arguments, bool speaks) {
  job::JobNotes notes;
  job::JobConfig loaded = job::load_job(arguments.file, arguments.sets, notes);
  if (!speaks) return loaded;
  for (const std::string& o : notes.overrides) spdlog::info("{}", o);
  for (const std::string& w : notes.warnings) spdlog::warn("{}", w);
  return loaded;
}

std::vector<std::int64_t> sample_prompt_tokens(const job::JobConfig& job,
                                               const Tokenizer& tokenizer) {
  std::vector<std::int64_t> lengths;
  for (const std::string& prompt : job.eval.sample_prompts) {
    lengths.push_back(static_cast<std::int64_t>(sample_prompt_ids(tokenizer, prompt).size()));
  }
  return lengths;
}

std::int64_t export_disk_bytes(const TrainSpec& spec) {
  const Transformer model(spec.model, spec.adapter);
  const auto compressor = make_compressor(spec, model);
  return compressor ? exported_bytes(*compressor, spec.engine.dtype)
                    : dtype_size(spec.engine.dtype) * exported_elements(model);
}

namespace {

std::string weights_text(const EngineOptions& engine) {
  if (engine.dtype == DType::kF32) return "f32";
  switch (engine.master) {
    case MasterFormat::kF32:
      return "bf16 with f32 master";
    case MasterFormat::kSplit:
      return "bf16 with 16-bit remainder";
    case MasterFormat::kNone:
      return "bf16 with stochastic rounding";
  }
  return "?";
}

std::string optimizers_text(const TrainPlan& plan) {
  std::string text;
  for (const GroupSummary& g : plan.groups) {
    text +=
        fmt::format("{}{} for {} tensors ({:.1f} M, state {})", text.empty() ? "" : ", ", g.name,
                    g.tensors, static_cast<double>(g.elements) / 1e6, format_bytes(g.state_bytes));
  }
  return text;
}

std::string compressor_text(const TrainSpec& spec) {
  if (!spec.compressor) return "";
  const Transformer model(spec.model);
  return fmt::format(
      " in the frozen model, which has no gradient and no optimizer state; {:.2f} M in the {} "
      "compressor",
      static_cast<double>(make_compressor(spec, model)->trained_elements()) / 1e6,
      compressor_kind_name(spec.compressor->kind));
}

// What is on disk, and what that costs.
std::string offload_text(const TrainSpec& spec, const TrainPlan& plan) {
  if (!plan.offload.state) return "";
  const std::int64_t steps = spec.offload.commit_steps,
                     lost = steps + (spec.offload.delayed_update ? 1 : 0);
  return fmt::format(
      "\noffload: {}{}masters and optimizer state on disk, {} copies of {}, {} of it in memory "
      "too; "
      "every step reads {} and writes {} per rank{}",
      plan.offload.weights ? "weights, " : "", plan.offload.gradients ? "gradients, " : "",
      spec.offload.slots, format_bytes(plan.checkpoint_bytes), format_bytes(plan.cache_bytes),
      format_bytes(plan.disk.read), format_bytes(plan.disk.written),
      lost == 1 ? ""
                : fmt::format("{}; a crash costs {} steps at most", steps == 1 ? "" : " on average",
                              lost));
}

std::string activations_text(const ActivationPlan& activations) {
  if (!activations.on_disk()) return "";
  return fmt::format(
      "\noffload: activations on disk, at most {} per rank; every step writes {} and reads {} of "
      "them",
      format_bytes(activations.disk_bytes), format_bytes(activations.disk.written),
      format_bytes(activations.disk.read));
}

}  // namespace

std::string plan_text(const TrainSpec& spec, const TrainPlan& plan) {
  const std::string ranks =
      plan.batch.ranks == 1
          ? ""
          : fmt::format(
                "\nZeRO stage {} on {} ranks: each sends {} of gradients and {} of weights per "
                "step, "
                "in {} collectives",
                plan.zero_stage, plan.batch.ranks, format_bytes(plan.traffic.reduce_bytes),
                format_bytes(plan.traffic.gather_bytes), plan.traffic.operations);
  const std::int64_t overhead = overhead_bytes(spec.device);
  const std::string recompute =
      spec.any_recompute
          ? fmt::format("\nrecompute: {}{}", job::spelling(plan.recompute),
                        plan.recompute == Recompute::kFull && plan.recompute_share < 1
                            ? fmt::format(", {:.0f} % of the blocks", 100 * plan.recompute_share)
                            : "")
          : "";
  const std::string order =
      plan.by_layers && plan.batch.accumulation_steps > 1 ? ", all through a layer at a time" : "";
  const bool gpu = spec.device == DeviceKind::kGpu;
  return fmt::format(
      "{:.1f} M parameters{}, {}; {}; {}{}{}\n{}{} at most {} (arena {} + "
      "{} {}), budget "
      "{} ({}){}{}{}{}\ndisk: {} per checkpoint, {} for the exported model",
      static_cast<double>(spec.model.num_parameters()) / 1e6, compressor_text(spec),
      weights_text(spec.engine), optimizers_text(plan), plan.batch.text(), order, ranks,
      to_table(plan.memory), gpu ? "on the GPU" : "resident",
      format_bytes(plan.memory.extent_bytes + overhead), format_bytes(plan.memory.extent_bytes),
      gpu ? "libraries" : "process", format_bytes(overhead), format_bytes(plan.budget.bytes),
      plan.budget.bound_by,
      gpu ? fmt::format("; pinned memory on the host {}", format_bytes(plan.memory.host_bytes))
          : "",
      recompute, offload_text(spec, plan), activations_text(plan.activations),
      format_bytes(plan.checkpoint_bytes), format_bytes(export_disk_bytes(spec)));
}

}  // namespace thimble
