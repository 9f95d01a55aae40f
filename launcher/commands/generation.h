// Continuing one prompt or several at once: their caches, prompts in chunks, then one token of each
// in every forward pass.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launcher/commands/kv_arguments.h"
#include "launcher/trainer/loaded_model.h"

namespace thimble {

/// A prompt, and how many positions it and its continuation take.
struct Request {
  std::string prompt;
  std::vector<std::int32_t> ids;
  std::int64_t wanted = 0, capacity = 0;
};

struct Generated {
  std::string text;
  std::vector<std::int32_t> ids;
  std::string reason = "length";
};

struct GenerationSettings {
  SamplingOptions sampling;
  std::vector<std::string> stop;
  std::vector<std::int32_t> eos;
  std::int64_t max_new_tokens = 0;
  // Called with each piece of text of a sequence as it comes, and with true at its end.
  std::function<void(std::size_t index, const std::string& piece, bool done)> live = {};
};

class Generation {
 public:
  Generation(LoadedModel& loaded, const KvCaches& caches, const std::vector<Request>& requests);

  std::vector<Generated> run(const GenerationSettings& settings);
  /// On a planning arena: all prompts, and the longest that sequences may become.
  void plan();
  /// The most bytes of blocks that were in use, of compressed caches; 0 of dense ones.
  std::int64_t peak_bytes() const;

 private:
  struct Sequence;
  void prefill(Sequence& sequence, std::span<const std::int32_t> ids);
  void step(std::vector<Sequence*>& active);
  bool advance(Sequence& sequence, const GenerationSettings& settings) const;

  LoadedModel& loaded_;
  const KvCaches& caches_;
  Tensor rope_table_;
  std::vector<std::shared_ptr<Sequence>> sequences_;
};

}  // namespace thimble
