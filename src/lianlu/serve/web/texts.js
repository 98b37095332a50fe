// What the page says, in English and Chinese.

const TEXTS = {
  en: {
    conversations: "Conversations", newChat: "New chat", untitled: "New chat", exportAll: "Export", importAll: "Import",
    model: "Model", settings: "Settings", close: "Close", messages: "Messages", message: "Message",
    messageHint: "Write a message", send: "Send", stop: "Stop",
    keys: "Enter sends, Shift+Enter begins a line, Esc stops a reply",
    system: "Instructions for this conversation", systemHint: "You are a helpful assistant.",
    key: "API key", keyHint: "if the server asks for one",
    language: "Language", theme: "Colours", themeAuto: "as the system", themeLight: "light", themeDark: "dark",
    defaults: "Back to the server's defaults",
    temperature: "Temperature", top_p: "Top p", top_k: "Top k", min_p: "Min p", max_tokens: "Most tokens of a reply",
    seed: "Seed", presence_penalty: "Presence penalty", frequency_penalty: "Frequency penalty",
    repetition_penalty: "Repetition penalty", asServer: "default",
    rename: "Rename", remove: "Delete", removed: "Deleted.", undo: "Undo", title: "Title",
    you: "You", assistant: "Assistant", copy: "Copy", copied: "Copied", edit: "Edit", regenerate: "Again", retry: "Try again",
    sendEdited: "Send", cancel: "Cancel", editLabel: "Edit message",
    empty: "Ask something. The conversation stays in this browser.",
    noModels: "no models", loadingModels: "asking the server",
    tokens: (n) => `${n} tokens`, rate: (n) => `${n} tokens/s`, first: (s) => `first after ${s} s`,
    context: (used, all) => (all ? `${used} of ${all} tokens` : `${used} tokens`),
    inContext: (n, cached) => `${n} in context${cached ? `, ${cached} of them from the cache` : ""}`,
    contextTitle: "Tokens in the context of this conversation",
    stopped: "stopped", cutOff: "cut off at the limit of tokens", filtered: "withheld",
    done: "The reply is complete.", failed: "The reply failed.",
    unreachable: "The server cannot be reached.", badAnswer: (status) => `The server answered ${status} without a reason.`,
    brokenStream: "The connection broke off before the reply was complete.",
    badNumber: (name) => `${name}: this is no number the server takes`,
    full: "The browser's storage is full: delete or export conversations.",
    badFile: "This file holds no conversations.", imported: (n) => `${n} conversations were added.`,
  },
  zh: {
    conversations: "对话", newChat: "新对话", untitled: "新对话", exportAll: "导出", importAll: "导入",
    model: "模型", settings: "设置", close: "关闭", messages: "消息", message: "消息",
    messageHint: "输入消息", send: "发送", stop: "停止",
    keys: "Enter 发送，Shift+Enter 换行，Esc 停止回复",
    system: "本对话的系统提示词", systemHint: "你是一个乐于助人的助手。",
    key: "API 密钥", keyHint: "服务器要求时填写",
    language: "语言", theme: "配色", themeAuto: "跟随系统", themeLight: "浅色", themeDark: "深色",
    defaults: "恢复服务器默认值",
    temperature: "温度", top_p: "Top p", top_k: "Top k", min_p: "Min p", max_tokens: "回复最多词元数",
    seed: "随机种子", presence_penalty: "存在惩罚", frequency_penalty: "频率惩罚",
    repetition_penalty: "重复惩罚", asServer: "默认",
    rename: "重命名", remove: "删除", removed: "已删除。", undo: "撤销", title: "标题",
    you: "你", assistant: "助手", copy: "复制", copied: "已复制", edit: "编辑", regenerate: "重新生成", retry: "重试",
    sendEdited: "发送", cancel: "取消", editLabel: "编辑消息",
    empty: "问点什么吧。对话只保存在本浏览器中。",
    noModels: "没有模型", loadingModels: "正在询问服务器",
    tokens: (n) => `${n} 词元`, rate: (n) => `${n} 词元/秒`, first: (s) => `首词元 ${s} 秒`,
    context: (used, all) => (all ? `${used} / ${all} 词元` : `${used} 词元`),
    inContext: (n, cached) => `上下文 ${n}${cached ? `（${cached} 来自缓存）` : ""}`,
    contextTitle: "本对话上下文中的词元数",
    stopped: "已停止", cutOff: "达到词元上限而截断", filtered: "已被拦截",
    done: "回复完成。", failed: "回复失败。",
    unreachable: "无法连接服务器。", badAnswer: (status) => `服务器返回 ${status}，未说明原因。`,
    brokenStream: "回复完成前连接中断。",
    badNumber: (name) => `${name}：服务器不接受这个数`,
    full: "浏览器存储已满：请删除或导出对话。",
    badFile: "该文件不含对话。", imported: (n) => `已添加 ${n} 个对话。`,
  },
};

const STORED = "lianlu.language";
let current = localStorage.getItem(STORED) ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

export const language = () => (current in TEXTS ? current : "en");

// A text by its name; texts with numbers are functions of these.
export function text(name, ...values) {
  const found = TEXTS[language()][name];
  return typeof found === "function" ? found(...values) : found;
}

export function setLanguage(name) {
  current = name;
  localStorage.setItem(STORED, name);
}

// Write the texts of the current language into everything below `root` that asks for one.
export function translate(root = document) {
  document.documentElement.lang = language();
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = text(node.dataset.hint);
  for (const node of root.querySelectorAll("[data-title]")) node.title = text(node.dataset.title);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", text(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = text(node.dataset.label);
  }
}

// A number for people: 1234 -> "1,234", 0.2134 -> "0.21", 18.26 -> "18.3".
export function number(value) {
  const digits = Number.isInteger(value) || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toLocaleString(language(), { maximumFractionDigits: digits });
}
