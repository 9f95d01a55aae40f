#include "models/fused_tensors.h"

#include <array>
#include <string_view>

namespace thimble {
namespace {

struct Fused {
  std::string_view whole;
  std::array<std::string_view, 3> parts;
};
constexpr std::array kFused{
    Fused{"self_attn.qkv_proj.weight",
          {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"}},
    Fused{"mlp.gate_up_proj.weight", {"mlp.gate_proj.weight", "mlp.up_proj.weight", ""}}};

}  // namespace

std::optional<FusedPlace> fused_place(const ParamTable& params, const std::string& name) {
  for (const Fused& fused : kFused) {
    std::string prefix;
    for (const std::string_view part : fused.parts) {
      if (!part.empty() && name.ends_with(part)) prefix = name.substr(0, name.size() - part.size());
    }
    if (prefix.empty()) continue;
    FusedPlace place{.name = prefix + std::string(fused.whole)};
    for (const std::string_view part : fused.parts) {
      if (part.empty()) continue;
      const std::string other = prefix + std::string(part);
      if (other == name) place.first_row = place.rows;
      const std::optional<ParamId> id = params.find(other);
      if (!id) return std::nullopt;
      place.rows += params.info(*id).shape[0];
    }
    return place;
  }
  return std::nullopt;
}

}  // namespace thimble
