// The keys of [data], [[data.train]] and [[data.eval]]: members with their defaults, and beside
// them what each means, which values it takes and what a change of it means for a resumed run.
#pragma once

#include "data/data_spec.h"
#include "launcher/job/field.h"

namespace thimble::job {

template <>
inline constexpr std::array kSpellings<ExcessLength>{
    Spelling{ExcessLength::kError, "error"}, Spelling{ExcessLength::kDrop, "drop"},
    Spelling{ExcessLength::kTruncate, "truncate"}, Spelling{ExcessLength::kSplit, "split"}};

template <>
inline constexpr std::array kSpellings<SampleFormat>{
    Spelling{SampleFormat::kAuto, "auto"},
    Spelling{SampleFormat::kText, "text"},
    Spelling{SampleFormat::kPromptCompletion, "prompt_completion"},
    Spelling{SampleFormat::kTokens, "tokens"},
    Spelling{SampleFormat::kChat, "chat"},
    Spelling{SampleFormat::kShareGpt, "sharegpt"},
    Spelling{SampleFormat::kAlpaca, "alpaca"}};

template <>
inline constexpr std::array kSpellings<TrainOnEos>{Spelling{TrainOnEos::kTurn, "turn"},
                                                   Spelling{TrainOnEos::kLast, "last"},
                                                   Spelling{TrainOnEos::kAll, "all"}};

enum class TurnsToTrain : std::uint8_t { kAll, kLast };
template <>
inline constexpr std::array kSpellings<TurnsToTrain>{Spelling{TurnsToTrain::kAll, "all"},
                                                     Spelling{TurnsToTrain::kLast, "last"}};

enum class SpecialTokens : std::uint8_t { kParse, kText };
template <>
inline constexpr std::array kSpellings<SpecialTokens>{Spelling{SpecialTokens::kParse, "parse"},
                                                      Spelling{SpecialTokens::kText, "text"}};

enum class OnBadLine : std::uint8_t { kError, kSkip };
template <>
inline constexpr std::array kSpellings<OnBadLine>{Spelling{OnBadLine::kError, "error"},
                                                  Spelling{OnBadLine::kSkip, "skip"}};

/// What training and evaluation data have in common.
struct DataSource {
  std::vector<std::string> path;  // files and globs
  SampleFormat format = SampleFormat::kAuto;
  std::string document_separator;             // empty: one file = one document
  std::map<std::string, std::string> fields;  // our name -> the key in the file
  std::vector<std::string> roles_to_train{"assistant"};
  TurnsToTrain turns_to_train = TurnsToTrain::kAll;
  TrainOnEos train_on_eos = TrainOnEos::kTurn;
  bool train_on_inputs = false;
  SpecialTokens special_tokens = SpecialTokens::kParse;
  bool operator==(const DataSource&) const = default;
};

inline void visit_source_fields(const FieldVisitor& visit, DataSource& source) {
  Field path{
      .name = "path",
      .doc =
          "A file, a glob or a list of them: .txt, .jsonl, .json (an array of objects), these "
          "two also as .gz and .zst, or a .tokens file written by `thimble tokenize`",
      .value = &source.path,
      .required = true,
      .path = PathKind::kInput,
      .resume = ResumeClass::kDataContent};
  visit(path);
  Field format{.name = "format",
               .doc =
                   "What a sample is; auto decides by the file's name and the keys of its first "
                   "lines, and prints its choice; chat: messages with role and content; sharegpt: "
                   "conversations with from and value; alpaca: instruction, input and output",
               .value = choice(source.format)};
  visit(format);
  Field separator{.name = "document_separator",
                  .doc = "Text between two documents of a .txt file",
                  .value = &source.document_separator,
                  .default_text = "one file is one document"};
  visit(separator);
  Field fields{
      .name = "fields",
      .doc =
          "Which JSON keys hold the text, the prompt and completion or the messages: { text = "
          "\"content\" } or { prompt = \"question\", completion = \"answer\" }",
      .value = &source.fields,
      .default_text = "the same names",
      .choices = {"text", "prompt", "completion", "messages", "role", "content"}};
  visit(fields);
  Field roles{.name = "roles_to_train",
              .doc = "Chat: the roles whose messages are trained on; \"train\": false excludes one",
              .value = &source.roles_to_train};
  visit(roles);
  Field turns{.name = "turns_to_train",
              .doc = "Chat: all turns of these roles, or only the last of each conversation",
              .value = choice(source.turns_to_train)};
  visit(turns);
  Field eos{.name = "train_on_eos",
            .doc =
                "Chat: which end-of-turn tokens are trained on; turn: those of the turns that are; "
                "last: only that of the last of these; all: those of every turn",
            .value = choice(source.train_on_eos)};
  visit(eos);
  Field inputs{.name = "train_on_inputs",
               .doc =
                   "With prompt and completion, true trains on the prompt too; false masks the "
                   "prompt's loss; with conversations, true trains on all of them",
               .value = &source.train_on_inputs};
  visit(inputs);
  Field special{.name = "special_tokens",
                .doc =
                    "How special tokens such as \"<|im_end|>\" in the data are read; parse: as "
                    "that token, like the tokenizers library; text: as ordinary characters",
                .value = choice(source.special_tokens)};
  visit(special);
}

struct TrainSource : DataSource {
  double weight = 1.0;
  bool operator==(const TrainSource&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, TrainSource& source) {
  visit_source_fields(visitor, source);
  Field weight{.name = "weight",
               .doc =
                   "Sampling weight of this source relative to the other [[data.train]] tables "
                   "(data mixing)",
               .value = &source.weight,
               .range = above(0)};
  visitor(weight);
}

struct EvalSource : DataSource {
  std::string name;  // empty: the file's stem
  bool operator==(const EvalSource&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, EvalSource& source) {
  const FieldVisitor continues = [&](Field& field) {
    field.resume = ResumeClass::kContinues;
    visitor(field);
  };
  Field name{.name = "name",
             .doc = "The name of this evaluation set in metrics",
             .value = &source.name,
             .default_text = "the file's stem"};
  continues(name);
  visit_source_fields(continues, source);
}

struct DataConfig {
  std::int64_t seq_len = 0;
  bool packing = true;
  Auto<ExcessLength> excess_length_strategy;
  double val_set_size =
      0.01;  // < 1: share; else a number of samples; 0 once [[data.eval]] is given
  OnBadLine on_bad_line = OnBadLine::kError;
  std::string cache_dir = "~/.cache/thimble";
  std::vector<TrainSource> train;
  std::vector<EvalSource> eval;
  bool operator==(const DataConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, DataConfig& data) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "seq_len",
         .doc = "Tokens per training sequence (context length)",
         .value = &data.seq_len,
         .range = {.min = 1, .max = 16'777'216},
         .unit = "tokens",
         .required = true});
  visit({.name = "packing",
         .doc = "Pack several samples into one sequence; attention never crosses a segment "
                "boundary (packed sequences, no cross-contamination)",
         .value = &data.packing});
  visit({.name = "excess_length_strategy",
         .doc = "What happens to a sample longer than seq_len; auto: split for text, error for "
                "everything else",
         .value = choice(data.excess_length_strategy)});
  visit({.name = "val_set_size",
         .doc = "Samples held out for evaluation: a share (< 1) or a number of samples; 0 with "
                "[[data.eval]]",
         .value = &data.val_set_size,
         .range = at_least(0)});
  visit({.name = "on_bad_line",
         .doc = "What happens to a JSON line that cannot be read; error: the run stops and names "
                "it; skip: it is counted and left out",
         .value = choice(data.on_bad_line)});
  visit({.name = "cache_dir",
         .doc = "Directory of the tokenised data, which is reused while content, tokenizer and "
                "fields are the same",
         .value = &data.cache_dir,
         .path = PathKind::kCache,
         .resume = ResumeClass::kContinues});
  visit({.name = "train",
         .doc = "Training data; repeat the table to mix several sources",
         .value = table_list(data.train),
         .required = true});
  visit(
      {.name = "eval",
       .doc = "Evaluation data, evaluated and reported per table; takes the place of val_set_size",
       .value = table_list(data.eval)});
}
}  // namespace thimble::job
