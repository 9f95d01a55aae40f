#include "launcher/trainer/sample_prompts.h"

#include <spdlog/spdlog.h>

#include "core/base/text.h"
#include "launcher/trainer/evaluation.h"
#include "launcher/trainer/samples.h"

namespace thimble {
namespace {

// The machine's own failures, which other ranks must hear of, pass.
void sample(const RunState& run) {
  const TrainerParts& parts = run.parts;
  if (parts.job.eval.sample_prompts.empty()) return;
  parts.engine.finish_update();  // in the phase of the step
  const PhaseScope phase(parts.engine.arena(), "eval");
  run.tell_phase("sample");
  for (const std::string& prompt : parts.job.eval.sample_prompts) {
    try {
      const std::vector<std::int32_t> ids =
          greedy_sample(parts.engine, parts.model, parts.tokenizer, prompt);
      if (run.leads()) spdlog::info("sample: {}", printable(parts.tokenizer.decode(ids), 400));
    } catch (const SystemError&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& e) {
      if (run.leads()) spdlog::warn("no sample of '{}': {}", printable(prompt, 60), e.what());
    }
  }
}

}  // namespace

void SamplePrompts::begin(RunState& run) {
  if (run.train.step == 0) sample(run);
}

void SamplePrompts::after_step(RunState& run, const StepReport&) {
  if (evaluation_due(run)) sample(run);
}

}  // namespace thimble
