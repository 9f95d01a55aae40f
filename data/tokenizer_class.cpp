#include "data/tokenizer_class.h"

#include <array>
#include <string_view>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

enum class Family { kGpt2, kNeox, kQwen2, kRoberta };

struct KnownClass {
  std::string_view name;
  Family family;
};
constexpr std::array kKnown = {
    KnownClass{"GPT2Tokenizer", Family::kGpt2},
    KnownClass{"CodeGenTokenizer", Family::kGpt2},
    KnownClass{"GPTNeoXTokenizer", Family::kNeox},
    KnownClass{"Qwen2Tokenizer", Family::kQwen2},
    KnownClass{"RobertaTokenizer", Family::kRoberta},
    KnownClass{"BartTokenizer", Family::kRoberta},
    KnownClass{"LongformerTokenizer", Family::kRoberta},
    KnownClass{"LEDTokenizer", Family::kRoberta},
};

Family family_of(const TokenizerConfig& config) {
  std::string_view name = config.tokenizer_class;
  if (name.empty()) return Family::kGpt2;
  // The two spellings name one implementation.
  if (name.ends_with("Fast")) name.remove_suffix(std::string_view("Fast").size());
  std::vector<std::string> names;
  for (const KnownClass& known : kKnown) {
    if (name == known.name) return known.family;
    names.emplace_back(known.name);
  }
  throw_user(
      "{}: '{}' is not supported for a vocab.json with merges.txt, which do not say how text is "
      "split; supported: {}, or a tokenizer.json beside them",
      config.class_where, printable(config.tokenizer_class), join(names));
}

}  // namespace

std::string_view qwen2_pattern() {
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
         R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

ClassRules rules_of_class(const TokenizerConfig& config) {
  const Family family = family_of(config);
  ClassRules rules;
  if (family == Family::kQwen2 || family == Family::kNeox) {
    rules.normalizers.emplace_back(UnicodeStage{NormalForm::kNfc});
  }
  const bool prefix = config.add_prefix_space.value_or(false);
  if (family != Family::kGpt2 || prefix) {
    rules.digest = fmt::format("{} {}", static_cast<int>(family), prefix);
  }
  // The prefix comes after Qwen2's pattern, but before GPT-2's, which its stage applies by itself.
  const auto add_prefix = [&] {
    if (prefix) rules.splitters.emplace_back(PrefixSpaceStage{});
  };
  if (family == Family::kQwen2) {
    rules.splitters.emplace_back(SplitStage{TokenRegex(qwen2_pattern(), false, "Qwen2Tokenizer")});
    add_prefix();
  } else {
    add_prefix();
    rules.splitters.emplace_back(SplitStage{TokenRegex(gpt2_pattern(), false, "GPT2Tokenizer")});
  }
  if (family == Family::kRoberta) {
    for (const char* text : {"<s>", "</s>", "<unk>", "<pad>", "<mask>"}) {
      rules.special.push_back({.text = text, .special = true});
    }
    rules.bos = "<s>";
    rules.eos = "</s>";
    rules.frames_documents = true;
    return rules;
  }
  rules.special.push_back({.text = "<|endoftext|>", .special = true});
  rules.eos = "<|endoftext|>";
  if (family != Family::kQwen2) rules.bos = rules.eos;
  return rules;
}

}  // namespace thimble
