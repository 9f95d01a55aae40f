// How enumerations are written in a job file. The enumerations themselves belong to the folders
// that act on them; a table of the job that has a key of such a type gives its spellings.
#pragma once

#include <array>
#include <string_view>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace thimble::job {

/// An enumerator that a job may name, and its name there.
template <typename Enum>
struct Spelling {
  Enum value;
  std::string_view name;
};

/// What a job may write for an enumeration, in the order of help texts. Enumerators that are not
/// listed cannot be chosen.
template <typename Enum>
inline constexpr std::array<Spelling<Enum>, 0> kSpellings{};

template <>
inline constexpr std::array kSpellings<DType>{Spelling{DType::kBF16, "bf16"},
                                              Spelling{DType::kF32, "fp32"}};

/// The spelling of an enumerator, as in the job file; empty if a job cannot name it.
template <typename Enum>
constexpr std::string_view spelling(Enum value) {
  for (const Spelling<Enum>& s : kSpellings<Enum>) {
    if (s.value == value) return s.name;
  }
  return {};
}

/// The place of `value` in kSpellings.
template <typename Enum>
std::size_t choice_index(Enum value) {
  for (std::size_t i = 0; i < kSpellings<Enum>.size(); ++i) {
    if (kSpellings<Enum>[i].value == value) return i;
  }
  TH_CHECK(false, "an enumerator without a spelling stands in a job");
  return 0;
}

/// The names in kSpellings.
template <typename Enum>
inline constexpr auto kChoiceNames = [] {
  std::array<std::string_view, kSpellings<Enum>.size()> names;
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = kSpellings<Enum>[i].name;
  return names;
}();

/// "auto" and the names in kSpellings.
template <typename Enum>
inline constexpr auto kAutoNames = [] {
  std::array<std::string_view, kSpellings<Enum>.size() + 1> names{"auto"};
  for (std::size_t i = 1; i < names.size(); ++i) names[i] = kSpellings<Enum>[i - 1].name;
  return names;
}();

}  // namespace thimble::job
