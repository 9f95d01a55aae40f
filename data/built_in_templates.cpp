#include "data/built_in_templates.h"

#include <array>

namespace thimble {
namespace {

constexpr std::string_view kChatMl = R"({%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n' + (call.function or call) | tojson + '\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content or '' }}
        {%- if loop.first and message.role == 'system' and tools %}
            {{- '\n\nTools:\n' + tools | tojson }}
        {%- endif %}
        {{- '<|im_end|>' }}
    {%- endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %})";

constexpr std::string_view kLlama3 = R"({{- bos_token }}
{%- for message in messages %}
    {%- set role = 'ipython' if message.role == 'tool' else message.role %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}
    {%- if role == 'assistant' %}
        {%- generation %}
        {{- (message.content or '') | trim }}
        {%- for call in message.tool_calls or [] %}
            {{- (call.function or call) | tojson }}
        {%- endfor %}
        {{- '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- (message.content or '') | trim }}
        {%- if loop.first and role == 'system' and tools %}
            {{- '\n\nTools:\n' + tools | tojson }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %})";

constexpr std::string_view kMistral = R"({%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content + '\n\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message.content + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}
        {%- generation %}
        {{- ' ' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {{- (call.function or call) | tojson }}
        {%- endfor %}
        {{- eos_token }}
        {%- endgeneration %}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] ' + message.content + ' [/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('the built-in template mistral has no place for the role ' + message.role) }}
    {%- endif %}
{%- endfor %})";

constexpr std::string_view kAlpaca = R"({{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content + '\n\n' }}
    {%- elif message.role == 'user' %}
        {{- '### Instruction:\n' + message.content + '\n\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '### Response:\n' }}
        {%- generation %}
        {{- message.content + eos_token }}
        {%- endgeneration %}
        {{- '\n\n' }}
    {%- else %}
        {{- raise_exception('the built-in template alpaca has no place for the role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '### Response:\n' }}
{%- endif %})";

constexpr std::array kTemplates{
    BuiltInTemplate{"chatml", kChatMl}, BuiltInTemplate{"llama3", kLlama3},
    BuiltInTemplate{"mistral", kMistral}, BuiltInTemplate{"alpaca", kAlpaca}};

}  // namespace

std::span<const BuiltInTemplate> built_in_templates() {
  return kTemplates;
}

}  // namespace thimble
