#include "launcher/commands/generation.h"

#include <algorithm>
#include <cmath>

#include "launcher/run/signals.h"

namespace thimble {

struct Generation::Sequence {
  std::size_t index = 0;
  const Request* request = nullptr;
  std::unique_ptr<KvCache> cache;
  std::vector<std::int32_t> history;
  std::vector<float> logits;
  std::optional<StreamDecoder> stream;
  Generated out;
};

namespace {

// Where the first of the stop texts begins, or npos.
std::size_t find_stop(const std::string& text, const std::vector<std::string>& stops) {
  std::size_t first = std::string::npos;
  for (const std::string& s : stops) first = std::min(first, text.find(s));
  return first;
}

void check_finite(const std::vector<float>& logits, const LoadedModel& loaded) {
  for (const float l : logits) {
    if (!std::isfinite(l)) throw_not_finite(loaded, "logits");
  }
}

std::int64_t longest_of(const std::vector<Request>& requests) {
  std::int64_t longest = 0;
  for (const Request& r : requests) longest = std::max(longest, r.capacity);
  return longest;
}

}  // namespace

Generation::Generation(LoadedModel& loaded, const KvCaches& caches,
                       const std::vector<Request>& requests)
    : loaded_(loaded), caches_(caches) {
  for (const Request& r : requests) {
    auto s = std::make_shared<Sequence>();
    s->index = sequences_.size();
    s->request = &r;
    s->cache = caches.make(*loaded.arena, r.capacity);
    s->history = r.ids;
    s->stream.emplace(*loaded.tokenizer, r.prompt.empty());
    sequences_.push_back(std::move(s));
  }
  rope_table_ = caches.make_table(*loaded.arena, longest_of(requests));
}

void Generation::prefill(Sequence& sequence, std::span<const std::int32_t> ids) {
  Decoder decoder(*loaded_.arena, *loaded_.model, *loaded_.store, loaded_.dtype,
                  DecodingCache{.kv = *sequence.cache,
                                .rope_table = rope_table_,
                                .prompt_chunk = caches_.prompt_chunk()});
  sequence.logits = decoder.feed(ids);
}

// The next token of each; one alone goes the way of prompts.
void Generation::step(std::vector<Sequence*>& active) {
  if (active.size() == 1) {
    prefill(*active[0], std::span(active[0]->history).last(1));
    return;
  }
  std::vector<NextToken> tokens;
  for (Sequence* s : active) tokens.push_back({s->cache.get(), s->history.back()});
  Context ctx{.store = *loaded_.store, .arena = *loaded_.arena, .dtype = loaded_.dtype};
  std::vector<std::vector<float>> logits = decode_batch(ctx, *loaded_.model, rope_table_, tokens);
  for (std::size_t i = 0; i < active.size(); ++i) active[i]->logits = std::move(logits[i]);
}

// Takes a token of the sequence's logits; false if it is the last.
bool Generation::advance(Sequence& s, const GenerationSettings& settings) const {
  check_finite(s.logits, loaded_);
  const auto made = static_cast<std::int64_t>(s.out.ids.size());
  const std::int32_t id = sample_token(s.logits, settings.sampling, made, s.history);
  if (id == loaded_.tokenizer->eos_id() ||
      std::find(settings.eos.begin(), settings.eos.end(), id) != settings.eos.end()) {
    s.out.reason = "eos";
    return false;
  }
  s.out.ids.push_back(id);
  s.history.push_back(id);
  const std::string piece = s.stream->push(id);
  s.out.text += piece;
  if (settings.live) settings.live(s.index, piece, false);
  const std::size_t stop = find_stop(s.out.text, settings.stop);
  if (stop != std::string::npos) {
    s.out.text.resize(stop);
    s.out.reason = "stop";
    return false;
  }
  return made + 1 < settings.max_new_tokens && s.cache->length() < s.cache->capacity() &&
         !stop_requested();
}

std::vector<Generated> Generation::run(const GenerationSettings& settings) {
  std::vector<Sequence*> active;
  for (const auto& s : sequences_) {
    prefill(*s, s->request->ids);
    active.push_back(s.get());
  }
  while (!active.empty()) {
    std::erase_if(active, [&](Sequence* s) {
      if (advance(*s, settings)) return false;
      const std::string rest = s->out.reason == "stop" ? "" : s->stream->finish();
      s->out.text += rest;
      if (settings.live) settings.live(s->index, rest, true);
      return true;
    });
    if (!active.empty()) step(active);
  }
  std::vector<Generated> out;
  for (const auto& s : sequences_) out.push_back(std::move(s->out));
  return out;
}

// Attention needs most memory at the last position; many at once come there sooner.
void Generation::plan() {
  std::vector<Sequence*> all;
  for (const auto& s : sequences_) {
    prefill(*s, s->request->ids);
    const auto left = static_cast<std::size_t>(s->cache->capacity() - s->cache->length());
    if (left > 1) prefill(*s, std::vector<std::int32_t>(left - 1));
    if (left > 0) all.push_back(s.get());
  }
  if (!all.empty()) step(all);
}

std::int64_t Generation::peak_bytes() const {
  std::int64_t total = 0;
  for (const auto& s : sequences_) {
    const auto* compressed = dynamic_cast<const CompressedKvCache*>(s->cache.get());
    if (compressed != nullptr) total += compressed->peak_bytes();
  }
  return total;
}

}  // namespace thimble
