#include "core/nn/param.h"

namespace thimble {

ParamId ParamTable::add(ParamInfo info) {
  const auto id = static_cast<ParamId>(size());
  TH_CHECK(by_name_.emplace(info.name, id).second, "parameter {} twice", info.name);
  params_.push_back(std::move(info));
  return id;
}

std::optional<ParamId> ParamTable::find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  if (found == by_name_.end()) return std::nullopt;
  return found->second;
}

std::vector<ParamId> ParamTable::ids() const {
  std::vector<ParamId> all;
  for (std::int32_t i = 0; i < size(); ++i) all.push_back(static_cast<ParamId>(i));
  return all;
}

std::int64_t ParamTable::num_elements() const {
  std::int64_t n = 0;
  for (const ParamInfo& p : params_) n += p.shape.numel();
  return n;
}

}  // namespace thimble
